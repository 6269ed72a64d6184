"""What a graph on a server begins with: an input that people may leave incomplete, made complete."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from pydantic import ValidationError

from collab_agents.compose import tasks_of
from collab_agents.config import RunConfig, TasksConfig
from collab_agents.errors import ConfigError, first_problem
from collab_agents.graphs.agent import goal_so_far
from collab_agents.graphs.nodes import Node
from collab_agents.graphs.settings import Settings
from collab_agents.personas import Persona, get_personas, pick_persona
from collab_agents.rewards import MultiturnReward
from collab_agents.tasks import Task
from collab_agents.users import SimulatedUser

_AFRESH: dict[str, Any] = {"exchanges": 0, "stopped": None, "candidates": None, "futures": None, "firsts": None}
"""What an earlier run on the same thread left in the state, and this one does not count on."""

_WORDS = "; for a goal in words choose the user llm, and judges that need no more than a conversation"


def create_scene(
    settings: Settings, config: RunConfig, user: SimulatedUser, reward: MultiturnReward, *, of_reply: bool = False
) -> Node:
    """A node that puts `task`, `persona` and `seed` into the state.

    The input's task is a `Task`'s dict or the goal in words; without one, the first of the configured tasks is
    played. The persona is a `Persona`'s dict or the name of a shipped one. What the settings say of persona and seed
    goes first, then the input, then the configuration.
    of_reply: whether the messages have to end with the assistant's.

    The node raises ConfigError for what is malformed, and for a task that the user cannot play or a judge not judge.
    """

    async def scene(state: Any) -> dict[str, Any]:
        if of_reply and not (state["messages"] and state["messages"][-1].type == "ai"):
            raise ConfigError("messages: they have to end with the assistant's reply, which is what is scored")
        given = state.get("task")
        task = await first_task(config.tasks) if given is None else _task(given)
        if problem := problem_for(user, task) or reward.problem_with(task):
            raise ConfigError(f"task: {problem}{_WORDS if isinstance(given, str) else ''}")
        seed = next(seed for seed in (settings.seed, state.get("seed"), config.seed) if seed is not None)
        if not isinstance(seed, int):
            raise ConfigError(f"seed: an integer is needed, got {seed!r}")
        persona = _persona(settings.persona or state.get("persona"))
        persona = persona or pick_persona(config.user.personas, seed=seed, task_id=task.id)
        return _AFRESH | {
            "task": task.model_dump(),
            "persona": persona and persona.model_dump(),
            "seed": seed,
        }

    return scene


def create_goal(
    config: RunConfig, user: SimulatedUser, reward: MultiturnReward
) -> Callable[[Sequence[BaseMessage]], Awaitable[Task]]:
    """The goal in a live conversation: what the user has said or, for a simulated user who needs more, the first of

    the configured tasks. Raises ConfigError for a judge who needs more.
    """

    async def goal(messages: Sequence[BaseMessage]) -> Task:
        task = goal_so_far(messages)
        if problem_for(user, task):
            task = await first_task(config.tasks)
        if problem := problem_for(user, task) or reward.problem_with(task):
            raise ConfigError(f"{problem}{_WORDS}")
        return task

    return goal


def problem_for(user: SimulatedUser, task: Task) -> str | None:
    return getattr(user, "problem_with", lambda task: None)(task)


async def first_task(config: TasksConfig) -> Task:
    task = await asyncio.to_thread(next, tasks_of(config), None)
    if task is None:
        raise ConfigError(f"{config.source} has no tasks")
    return task


def _task(given: Any) -> Task:
    try:
        return Task(id="goal", prompt=given.strip()) if isinstance(given, str) else Task.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"task: {first_problem(error)}") from error


def _persona(given: Any) -> Persona | None:
    if isinstance(given, str):
        return get_personas([given])[0]
    try:
        return None if given is None else Persona.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"persona: {first_problem(error)}") from error
