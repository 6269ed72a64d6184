"""Evaluation: whole conversations on held-out tasks, by one assistant or by two, and the scorecard they make."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collab_agents.assistants import Assistant
from collab_agents.errors import ConfigError
from collab_agents.graphs.batch import Progress, play_conversations
from collab_agents.judges import asks_first, assistant_tokens, user_tokens
from collab_agents.personas import Persona
from collab_agents.rewards import MultiturnReward
from collab_agents.runs import read_failures
from collab_agents.scorecard import Scorecard, score_set
from collab_agents.seeds import derive_seed
from collab_agents.tasks import Task
from collab_agents.trajectories import Trajectory, read_trajectories
from collab_agents.users import SimulatedUser


@dataclass(frozen=True)
class TaskSet:
    """What is evaluated on, by whom it is played and judged.

    name: in the scorecard. metric: the judge of `reward` that says how well a task was done, if one does.
    settings: what else to keep in the runs' run.json, and to compare on resuming.
    """

    name: str
    tasks: Sequence[Task]
    user: SimulatedUser | Callable[..., Any]
    reward: MultiturnReward
    metric: str | None = None
    personas: Sequence[Persona] = ()
    max_exchanges: int = 8
    settings: Mapping[str, Any] = field(default_factory=dict)


async def evaluate(
    sets: Sequence[TaskSet],
    assistants: Mapping[str, Assistant],
    *,
    seed: int = 0,
    repeats: int = 1,
    max_concurrency: int = 32,
    out: str | Path | None = None,
    resume: bool = False,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
) -> Scorecard:
    """Play every task with each assistant, `repeats` times, and score the conversations.

    assistants: one or two, by name; of two, the first is compared with the second, on the same tasks, personas and
        seeds.
    seed: of the first repeat; the others' are derived from it.
    out: a folder, in which each set, assistant and seed has a run directory. resume: go on with them.
    settings: what to keep in the run.json of each assistant's runs.
    progress: an object to keep up to date, over all runs.

    A conversation that cannot be finished is counted as failed and is in no mean. Raises ConfigError for a set
    without tasks or without a name of its own, or more than two assistants; RunDirectoryError as
    `generate_trajectories`.
    """
    if not 1 <= len(assistants) <= 2:
        raise ConfigError(f"{len(assistants)} assistants: one is evaluated, or one against another")
    if repeats < 1:
        raise ConfigError(f"repeats is {repeats}: at least 1 is needed")
    folders = [_folder(one.name) for one in sets]
    for one, name in zip(sets, folders, strict=True):
        if not one.tasks:
            raise ConfigError(f"the task set {one.name!r} has no tasks")
        if folders.count(name) > 1:
            raise ConfigError(f"two task sets are named {one.name!r}, or nearly: give each a name of its own")
    seeds = [seed, *(derive_seed(seed, "repeat", repeat) for repeat in range(1, repeats))]
    scored = []
    for one, name in zip(sets, folders, strict=True):
        sides: dict[str, list[list[Trajectory]]] = {}
        failed: dict[str, int] = {}
        for side, assistant in assistants.items():
            sides[side], failed[side] = [], 0
            for number, repeat in enumerate(seeds):
                folder = Path(out) / name / _folder(side) / f"seed-{number}" if out is not None else None
                kept = {**one.settings, "assistant": (settings or {}).get(side)}
                played, lost = await _play(
                    one, assistant, repeat, folder, resume=resume, kept=kept, width=max_concurrency, progress=progress
                )
                sides[side].append(played)
                failed[side] += lost
        clarifies = getattr(one.reward.judges.get(one.metric or ""), "clarifies", False)
        card = await asyncio.to_thread(
            score_set, one.name, sides, failed, seeds=seeds, metric=one.metric, clarifies=clarifies
        )
        scored.append(card)
    return Scorecard(sets=scored)


async def _play(
    tasks: TaskSet,
    assistant: Assistant,
    seed: int,
    folder: Path | None,
    *,
    resume: bool,
    kept: Mapping[str, Any],
    width: int,
    progress: Progress | None,
) -> tuple[list[Trajectory], int]:
    progress = progress if progress is not None else Progress()
    before = progress.failed
    stream = play_conversations(
        tasks.tasks,
        user=tasks.user,
        assistant=assistant,
        reward=_measured(tasks.reward),
        max_exchanges=tasks.max_exchanges,
        personas=tasks.personas,
        seed=seed,
        max_concurrency=width,
        out=folder,
        resume=resume,
        settings=kept,
        progress=progress,
    )
    async with aclosing(stream):
        played = [trajectory async for trajectory in stream]
    if folder is None:
        return played, progress.failed - before
    wanted = {task.id for task in tasks.tasks}
    there = [one for one in read_trajectories(folder) if one.task.id in wanted]
    return there, sum(failure.task.id in wanted for failure in read_failures(folder))


def _measured(reward: MultiturnReward) -> MultiturnReward:
    """The reward, with what every scorecard counts recorded beside it."""
    own = {"asks_first": asks_first(), "assistant_tokens": assistant_tokens(), "user_tokens": user_tokens()}
    added = {name: judge for name, judge in own.items() if name not in reward.judges}
    return MultiturnReward({**reward.judges, **added}, {**reward.weights, **dict.fromkeys(added, 0.0)})


def _folder(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)
