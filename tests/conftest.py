"""Shared pieces: a real HTTP server with OpenAI's API on loopback, and tasks and participants to play with."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.process import ROOT, Server
from collab_agents.tasks import Task

__all__ = ["DRAFT", "ROOT", "Server", "party"]


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
