"""Plays tasks with a graph, in this process or in a worker. Knows of no run directory and of no other task."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

from langchain_core.runnables import RunnableConfig

from collab_agents._internal.notes import count_error
from collab_agents._internal.seeds import derive_seed
from collab_agents.graphs.conversation import Graph
from collab_agents.graphs.states import trajectory_of
from collab_agents.personas import Persona, pick_persona
from collab_agents.runs.ledger import Ledger
from collab_agents.runs.standing import errors_in, standing_after, standing_of
from collab_agents.tasks import Task
from collab_agents.trajectories import Trajectory

Keep = Callable[[str, Mapping[str, object]], Awaitable[None]]
"""Keeps a task's state, by the task's id, in place of its earlier one."""
Last = Callable[[Task], Awaitable[dict[str, Any] | None]]
"""Returns the state in which a task was left after its last finished turn, if it was begun."""


class Played(NamedTuple):
    """A task that was played."""

    trajectory: Trajectory
    line: str | None = None
    """The trajectory as a line, see `line_of`, if it came as one."""


class Plays(Protocol):
    """Plays tasks, several at once."""

    async def play(self, task: Task) -> Played:
        """Play a task to its end, from its last finished turn if it was begun."""
        ...


class Player:
    """Plays tasks in this process.

    Args:
        graph: A rollout or a conversation that may continue after any turn.
        personas: Each task is played by one of them, drawn by the seed.
        seed: The run's seed.
        ledger: Is told of every call and turn.
        last: Tells where to go on.
        keep: Called with the state before the first turn and after each.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        personas: Sequence[Persona],
        seed: int,
        ledger: Ledger,
        last: Last | None = None,
        keep: Keep | None = None,
    ) -> None:
        self._graph = graph
        self._personas = personas
        self._seed = seed
        self._ledger = ledger
        self._last = last
        self._keep = keep

    async def play(self, task: Task) -> Played:
        """Play a task to its end, from its last finished turn if it was begun."""
        return Played(await self.play_on(task, await self._last(task) if self._last else None))

    async def play_on(self, task: Task, state: dict[str, Any] | None) -> Trajectory:
        """Play a task to its end, from its state after a turn if there is one.

        Raises:
            LimitReached: If no further turn may begin.
        """
        persona = pick_persona(self._personas, seed=self._seed, task_id=task.id)
        seed = derive_seed(self._seed, task.id)
        config: RunnableConfig = {"run_name": f"task {task.id}", "configurable": {"thread_id": task.id}}
        with self._ledger.counting():
            now = state if state is not None else await self._begin(task, persona, seed)
            while True:
                if not now.get("stopped"):
                    await self._ledger.check()
                now, paused = await self._play_on(task.id, now, config)
                if not paused:
                    return trajectory_of(now, task, persona, seed)

    async def _begin(self, task: Task, persona: Persona | None, seed: int) -> dict[str, Any]:
        state: dict[str, Any] = {
            "messages": [],
            "task": task.model_dump(),
            "persona": persona.model_dump() if persona else None,
            "seed": seed,
        }
        if self._keep is not None:
            await self._keep(task.id, state)
        return state

    async def _play_on(
        self, task_id: str, state: dict[str, Any], config: RunnableConfig
    ) -> tuple[dict[str, Any], bool]:
        """Play to the end or, if spending is limited, for one turn. Returns the state, and whether more is to come."""
        pauses = ["choose", "assistant"] if self._ledger.limited else None
        answered = paused = False
        standing = standing_of(state)
        self._ledger.show(task_id, standing)
        events: Any = self._graph.astream(state, config, stream_mode=["updates", "values"], interrupt_after=pauses)
        async with aclosing(events):
            async for mode, event in events:
                if mode == "updates":
                    answered = "choose" in event or "assistant" in event
                    paused = (paused or answered) and "judge" not in event
                    standing = standing_after(standing, event)
                    self._ledger.show(task_id, standing)
                    for kind in errors_in(event):
                        count_error(kind)
                    self._ledger.add(candidates="candidate" in event, turns=answered)
                    continue
                state = event
                if answered and self._keep is not None:
                    await self._keep(task_id, state)
        return state, paused and pauses is not None
