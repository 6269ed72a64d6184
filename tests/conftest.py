"""Shared pieces: a real HTTP server with OpenAI's API on loopback, and tasks and participants to play with."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from collab_agents.tasks import Task

ROOT = Path(__file__).parent.parent


class Server:
    """The benchmark's server, as a process of its own."""

    def __init__(self, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.address}/v1"
        command = [sys.executable, "-m", "benchmarks.server", "--port", str(self.port), *options]
        self.process = subprocess.Popen(command, cwd=ROOT)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.stats()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stats(self) -> dict[str, int]:
        return self._get("/stats")

    def bodies(self) -> list[dict[str, Any]]:
        """The requests so far, in the order of arrival; for a server with `--log`."""
        return self._get("/log")

    def prompts(self) -> list[str]:
        return ["".join(str(message["content"]) for message in body["messages"]) for body in self.bodies()]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=10) as reply:
            return json.load(reply)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


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
        prompt="You want an invitation with the date, the place and the dress code.",
        reference="You are invited on Saturday 14 June to the Blue Barn. Please come all in white.",
        metadata={"agenda": {"opening": "Can you write an invitation?", "facts": facts}},
    )


DRAFT = (
    "You are warmly invited to a party on Saturday 14 June at the Blue Barn. Please come all in white, bring good "
    "spirits, and let us know soon whether we may count on you."
)
"""A piece of work that holds every fact of `party`."""
