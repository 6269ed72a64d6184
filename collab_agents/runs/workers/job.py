"""A run's tasks as a job of workers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from collab_agents.costs import Price
from collab_agents.graphs.conversation import Graph
from collab_agents.personas import Persona
from collab_agents.runs.ledger import Ledger
from collab_agents.runs.player import Player
from collab_agents.runs.turns import Shared, Turns
from collab_agents.tasks import Task
from collab_agents.trajectories import line_of


class Item(NamedTuple):
    """A task for a worker."""

    task: dict[str, Any]
    state: dict[str, Any] | None
    """In which the task was left, if it was begun."""
    shared: Shared | None
    """Where the worker keeps the task's turns."""


@dataclass(frozen=True)
class PlayJob:
    """A run's tasks. Each `Item` gives a trajectory as a line, see `line_of`."""

    make_graph: Callable[[], Graph]
    personas: Sequence[Persona]
    seed: int
    limited: bool
    prices: Mapping[str, Price]

    async def open(self, ledger: Ledger) -> Callable[[Item], Awaitable[str]]:
        """Return what plays the tasks in a worker."""
        database = _Database()
        options: dict[str, Any] = {"personas": self.personas, "seed": self.seed, "ledger": ledger}
        graph = self.make_graph()
        alone, keeping = Player(graph, **options), Player(graph, keep=database.keep, **options)

        async def play(item: Item) -> str:
            if item.shared is not None:
                await database.open(item.shared)
            player = alone if item.shared is None else keeping
            trajectory = await player.play_on(Task.model_validate(item.task), item.state)
            return line_of(trajectory)

        return play


class _Database:
    """The turns of a run, which a worker opens when its first task comes. They close with the worker."""

    def __init__(self) -> None:
        self._opening: asyncio.Task[Turns] | None = None

    async def open(self, shared: Shared) -> None:
        if self._opening is None or (self._opening.done() and self._opening.exception()):
            self._opening = asyncio.create_task(self._open(shared))
        self._turns = await asyncio.shield(self._opening)

    async def keep(self, task_id: str, state: Mapping[str, object]) -> None:
        await self._turns.keep(task_id, state)

    async def _open(self, shared: Shared) -> Turns:
        from collab_agents.runs.postgres import PostgresTurns

        return await PostgresTurns(shared.address, shared.run_id, password=shared.password).__aenter__()
