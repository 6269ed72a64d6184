"""A run's tasks as a job of workers."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collab_agents.costs import Price
from collab_agents.graphs.conversation import Graph
from collab_agents.personas import Persona
from collab_agents.runs.ledger import Ledger
from collab_agents.runs.player import Player
from collab_agents.tasks import Task


@dataclass(frozen=True)
class PlayJob:
    """A run's tasks. An item is a task as plain values, and its state if it was begun; an outcome is a JSON text."""

    make_graph: Callable[[], Graph]
    personas: Sequence[Persona]
    seed: int
    limited: bool
    prices: Mapping[str, Price]

    async def open(self, ledger: Ledger) -> Callable[[Any], Awaitable[bytes]]:
        """Return what plays the tasks in a worker."""
        player = Player(self.make_graph(), personas=self.personas, seed=self.seed, ledger=ledger)

        async def play(item: tuple[dict[str, Any], dict[str, Any] | None]) -> bytes:
            task, state = item
            trajectory = await player.play_on(Task.model_validate(task), state)
            return trajectory.model_dump_json().encode()

        return play
