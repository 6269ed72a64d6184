"""The first node of a graph on a server: it completes and checks a client's input."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage
from pydantic import ValidationError

from collab_agents._internal.reasons import first_problem
from collab_agents.config import RunConfig
from collab_agents.config.build import Composition, tasks_of
from collab_agents.errors import ConfigError
from collab_agents.graphs.agent import goal_so_far
from collab_agents.graphs.nodes import Node
from collab_agents.graphs.states import State, Update
from collab_agents.participants import problem_for
from collab_agents.personas import Persona, get_personas, pick_persona
from collab_agents.server.settings import Settings
from collab_agents.tasks import Task
from collab_agents.value import LearnedValue

_AFRESH: Update = {
    "exchanges": 0,
    "stopped": None,
    "candidates": None,
    "expected": None,
    "futures": None,
    "firsts": None,
}
"""Resets what an earlier run on the same thread left in the state."""

_WORDS = "; for a goal in words, choose the user llm and judges that need only a conversation"


@dataclass(frozen=True)
class Cast:
    """The participants of a run on a server, and its settings."""

    settings: Settings
    config: RunConfig
    parts: Composition
    personas: Sequence[Persona]
    """One of them is drawn if none is chosen."""
    value: LearnedValue | None = None

    def problem_with(self, task: Task) -> str | None:
        """Return why the user cannot play the task, a judge cannot score it or a value model must not, or None."""
        problem = self.problem_for_user(task) or self.parts.reward.problem_with(task)
        return problem or (self.value.problem_with(task) if self.value else None)

    def problem_for_user(self, task: Task) -> str | None:
        return problem_for(self.parts.user, task)

    async def first_task(self) -> Task:
        task = await asyncio.to_thread(lambda: next(tasks_of(self.config.tasks), None))
        if task is None:
            raise ConfigError(f"{self.config.tasks.source} has no tasks")
        return task


def create_scene(cast: Cast, *, of_reply: bool = False) -> Node:
    """Create a node that puts `task`, `persona` and `seed` into the state.

    The input's task is a `Task`'s dict or the goal in words; without one, the first configured task is used. The
    persona is a `Persona`'s dict or the name of a shipped one. For persona and seed, the settings have priority, then
    the input, then the configuration.

    Args:
        cast: The participants and settings.
        of_reply: Whether the messages must end with the assistant's reply.

    Returns:
        The node. It raises ConfigError for malformed input, and for a task that the user cannot play or a judge cannot
        score.
    """

    async def scene(state: State) -> Update:
        if of_reply and not (state["messages"] and state["messages"][-1].type == "ai"):
            raise ConfigError("messages must end with the assistant's reply, which is scored")
        given = state.get("task")
        task = await cast.first_task() if given is None else _task(given)
        if problem := cast.problem_with(task):
            raise ConfigError(f"task: {problem}{_WORDS if isinstance(given, str) else ''}")
        seed = next(seed for seed in (cast.settings.seed, state.get("seed"), cast.config.seed) if seed is not None)
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ConfigError(f"seed must be an integer, got {seed!r}")
        for memory in ("memory", "assistant_memory"):
            if not isinstance(state.get(memory) or {}, dict):
                raise ConfigError(f"{memory}: pass what an earlier run returned or nothing, got {state[memory]!r}")
        persona = _persona(cast.settings.persona or state.get("persona"))
        persona = persona or pick_persona(cast.personas, seed=seed, task_id=task.id)
        return _AFRESH | {
            "task": task.model_dump(),
            "persona": persona and persona.model_dump(),
            "seed": seed,
        }

    return scene


def create_goal(cast: Cast) -> Callable[[Sequence[BaseMessage]], Awaitable[Task]]:
    """Return a function that finds the goal of a live conversation.

    The goal is what the user has said so far. A simulated user that needs more gets the first configured task. The
    function raises ConfigError if a judge needs more.
    """

    async def goal(messages: Sequence[BaseMessage]) -> Task:
        task = goal_so_far(messages)
        if cast.problem_for_user(task):
            task = await cast.first_task()
        if problem := cast.problem_with(task):
            raise ConfigError(f"{problem}{_WORDS}")
        return task

    return goal


def _task(given: object) -> Task:
    try:
        return Task(id="goal", goal=given.strip()) if isinstance(given, str) else Task.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"task: {first_problem(error)}") from error


def _persona(given: object) -> Persona | None:
    if isinstance(given, str):
        return get_personas([given])[0]
    try:
        return None if given is None else Persona.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"persona: {first_problem(error)}") from error
