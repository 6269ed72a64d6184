"""Shared pieces: a real HTTP server with OpenAI's API on loopback, and tasks and participants to play with."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from benchmarks.process import ROOT, Server
from collab_agents.cli.app import run_command
from collab_agents.tasks import Task

__all__ = ["DRAFT", "ROOT", "Application", "Server", "party"]


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers with options, and stops them when the test ends."""
    servers: list[Server] = []

    def start(*options: str) -> Server:
        servers.append(Server("--latency", "0", *options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution, built as for a release."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--installer", "uv", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = out.glob("*.whl")
    return found


def line_in(function: Any, number: int) -> str:
    """Where the function's line of that number is, from 0, as reasons name it."""
    code = function.__code__
    return f"{Path(code.co_filename).relative_to(Path.cwd())}:{code.co_firstlineno + number}"


def run(*arguments: str | Path) -> int:
    """The exit code of a command that is run in this process, which has everything loaded."""
    with patch.dict(os.environ, {"OPENAI_API_KEY": ""}), patch.object(sys, "path", [*sys.path]):
        return run_command([str(argument) for argument in arguments])


@dataclass(frozen=True)
class Application:
    """A folder of somebody's, with packages `graphs` and `training` of its own, and where the wheel is installed."""

    folder: Path
    site: Path

    def run(self, *command: str | Path, **environment: str) -> str:
        """What a Python program prints there, without a terminal."""
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.site), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def application(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Application:
    made = Application(tmp_path_factory.mktemp("app"), tmp_path_factory.mktemp("site"))
    install = [sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--target", str(made.site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    for package in ("graphs", "training"):
        (made.folder / package).mkdir()
        (made.folder / package / "__init__.py").write_text("MINE = True\n")
    return made


def party(task_id: str = "party") -> Task:
    """A task with three facts."""
    facts: list[dict[str, Any]] = [
        {"name": "date", "value": "Saturday 14 June", "tell": "It is on Saturday 14 June.", "ask": ["when", "day"]},
        {"name": "place", "value": "the Blue Barn", "tell": "It is at the Blue Barn.", "ask": ["where", "venue"]},
        {"name": "dress code", "value": "all in white", "tell": "Come all in white.", "ask": ["wear", "dress"]},
    ]
    return Task(
        id=task_id,
        kind="invitation",
        goal="You want an invitation with the date, the place and the dress code.",
        reference="You are invited on Saturday 14 June to the Blue Barn. Please come all in white.",
        metadata={"agenda": {"opening": "Can you write an invitation?", "facts": facts}},
    )


DRAFT = (
    "You are warmly invited to a party on Saturday 14 June at the Blue Barn. Please come all in white, bring good "
    "spirits, and let us know soon whether we may count on you."
)
"""A piece of work that holds every fact of `party`."""
