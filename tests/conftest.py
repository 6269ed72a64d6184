"""The fixture that tests in every folder use, servers with OpenAI's API; and a quicker collection."""

import gc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from benchmarks.process import Server

settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")

# What tests import stays, so the garbage collector need not look at it while it is loaded, nor again in every test.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def passed_over() -> None:
    """Keep the garbage collector from what earlier tests loaded, such as the libraries for training."""
    gc.collect()
    gc.freeze()


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
