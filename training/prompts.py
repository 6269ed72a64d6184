"""Prompts for online training from tasks alone: the simulated users' first messages."""

import asyncio
from collections.abc import Iterable, Sequence

from collab_agents._internal.seeds import derive_seed
from collab_agents.errors import ConfigError
from collab_agents.messages import to_dicts
from collab_agents.participants import SimulatedUser, UserContext, with_context
from collab_agents.personas import Persona, pick_persona
from collab_agents.tasks import Task
from collab_agents.training.datasets import prompt_row
from collab_agents.training.made import Made


async def opening_rows(
    tasks: Iterable[Task],
    user: SimulatedUser,
    *,
    personas: Sequence[Persona] = (),
    seed: int = 0,
    system_prompt: str | None = None,
) -> Made:
    """Make a row for each task, as `prompt_row` does, whose prompt is the simulated user's first message.

    Args:
        tasks: The tasks.
        user: Plays the user.
        personas: Each task's user has one of them, drawn by the seed.
        seed: The seed of the draws and the users.
        system_prompt: Put before every prompt.

    Raises:
        ConfigError: If no user said anything.
    """
    listed = list(tasks)
    rows = await asyncio.gather(*(_row(task, user, personas, seed, system_prompt) for task in listed))
    made = Made("prompts", source="tasks")
    made.made_from = len(listed)
    for row in rows:
        if row is not None:
            made.add(row)
    if silent := len(rows) - len(made):
        made.dropped["tasks whose user said nothing"] = silent
    if not len(made):
        raise ConfigError("there is nothing to train on: no task's user said anything")
    return made


async def _row(
    task: Task, user: SimulatedUser, personas: Sequence[Persona], seed: int, system_prompt: str | None
) -> dict[str, object] | None:
    persona = pick_persona(personas, seed=seed, task_id=task.id)
    context = UserContext(task=task, persona=persona, seed=derive_seed(derive_seed(seed, task.id), "user", 0))
    message, _ = await with_context(user.respond)([], {}, context)
    if message is None:
        return None
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return prompt_row([*system, *to_dicts([message])], task, persona)
