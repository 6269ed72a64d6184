"""Fixtures that tests in several folders use: servers, the wheel, and an application that has it installed."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from benchmarks.process import ROOT, Server
from tests.support.application import Application

settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")


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


@pytest.fixture(scope="session")
def application(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Application:
    made = Application(tmp_path_factory.mktemp("app"), tmp_path_factory.mktemp("site"))
    install = [sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--target", str(made.site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    for package in ("graphs", "training"):
        (made.folder / package).mkdir()
        (made.folder / package / "__init__.py").write_text("MINE = True\n")
    return made
