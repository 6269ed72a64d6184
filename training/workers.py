"""Scoring replies in worker processes, while the training process does nothing else."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

from collab_agents.costs import Price
from collab_agents.errors import ConfigError
from collab_agents.graphs.conversation import Graph
from collab_agents.runs.ledger import Ledger, Spent
from collab_agents.runs.workers import RayOptions, open_workers
from collab_agents.usage import Usage


@dataclass(frozen=True)
class ScoreJob:
    """Replies to score. An item is the state after a reply, and gives its `reward`, `scores` and `futures`."""

    make_graph: Callable[[], Graph]
    limited: bool = False
    prices: Mapping[str, Price] = field(default_factory=dict)

    async def open(self, ledger: Ledger) -> Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]:
        """Return what scores the replies in a worker."""
        graph = self.make_graph()

        async def score(state: dict[str, Any]) -> dict[str, Any]:
            with ledger.counting():
                end = await graph.ainvoke(state)
            return {name: end[name] for name in ("reward", "scores", "futures")}

        return score


class RemoteScorer:
    """Has replies scored by workers, which start with the first reply and end with the process or with `close`.

    It has an event loop on a thread of its own, so that it can be called from any loop.

    Args:
        make_graph: Makes the lookahead graph.
        options: The cluster, and what each worker takes.
        most: Replies scored at once.

    Attributes:
        usage: The calls and tokens so far.

    Raises:
        ConfigError: If several training processes would each start a Ray of their own.
    """

    def __init__(self, make_graph: Callable[[], Graph], options: RayOptions, most: int) -> None:
        if options.address is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "ray.address is missing: several training processes share a cluster, such as 'auto' after ray start "
                "--head"
            )
        self.usage = Usage()
        self._job = ScoreJob(make_graph)
        self._options = options
        self._most = most
        self._stack = AsyncExitStack()
        self._opening: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, name="collab-agents workers", daemon=True).start()

    async def score(self, state: dict[str, Any], label: str) -> dict[str, Any]:
        """Return the `reward`, `scores` and `futures` of the state after a reply. Errors are those of `Workers.run`."""
        scoring = asyncio.run_coroutine_threadsafe(self._score(state, label), self._loop)
        return await asyncio.wrap_future(scoring)

    def close(self) -> None:
        """End the workers."""
        asyncio.run_coroutine_threadsafe(self._stack.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def enter(self, spent: Spent) -> None:
        """Count what workers did."""
        self.usage.add(spent.usage)

    def refusal(self) -> None:
        """Scoring has no budget."""

    async def _score(self, state: dict[str, Any], label: str) -> dict[str, Any]:
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        await asyncio.shield(self._opening)

        async def item() -> dict[str, Any]:
            return state

        found: dict[str, Any] = await self._workers.run(self._name, item, label)
        return found

    async def _open(self) -> None:
        self._workers = await self._stack.enter_async_context(open_workers(self._options, self._most))
        self._name = await self._workers.add(self._job)
        await self._stack.enter_async_context(self._workers.billing(self._name, self))
