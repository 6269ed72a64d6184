"""Evaluation: run whole conversations on held-out tasks with one or two assistants, and score them."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from collab_agents._internal.addresses import address_of
from collab_agents._internal.seeds import derive_seed
from collab_agents.assistants import Assistant
from collab_agents.costs import Price, SpendingLimits
from collab_agents.errors import ConfigError, LimitReached, RunDirectoryError
from collab_agents.humans import check_simulated
from collab_agents.judges import asks_first, assistant_tokens, user_tokens
from collab_agents.judges.base import CheckedJudge
from collab_agents.lookahead import MAX_EXCHANGES
from collab_agents.personas import Persona
from collab_agents.rewards import MultiturnReward
from collab_agents.runs.directory import RunDirectory, read_failures
from collab_agents.runs.generate import cancel, check_tasks, conversation_settings, play_conversations, slots_for
from collab_agents.runs.parts import Parts
from collab_agents.runs.progress import Progress, run_named
from collab_agents.runs.scorecard import RESERVED, Played, Scorecard, score_set
from collab_agents.runs.spending import Purse
from collab_agents.runs.turns import check_checkpoints
from collab_agents.runs.workers import RayOptions, open_workers
from collab_agents.tasks import Task
from collab_agents.trajectories import read_trajectories
from collab_agents.users import AnyUser

if TYPE_CHECKING:
    from collab_agents.runs.workers.pool import Workers


@dataclass(frozen=True)
class TaskSet:
    """Tasks to evaluate on, with the user who plays them and the judges."""

    name: str
    """The set's name in the scorecard."""
    tasks: Sequence[Task]
    user: AnyUser
    reward: MultiturnReward
    metric: str | None = None
    """The judge of `reward` that measures how well a task was done, if there is one."""
    personas: Sequence[Persona] = ()
    max_exchanges: int = MAX_EXCHANGES
    settings: Mapping[str, object] = field(default_factory=dict)
    """More settings to keep in the runs' run.json, and to compare when they are resumed."""


@dataclass(frozen=True)
class _Repeat:
    """Every task of a set, with one assistant and one seed."""

    tasks: TaskSet
    side: str
    seed: int
    out: Path | Parts | None
    settings: Mapping[str, object]
    name: str
    """What tells it apart from the evaluation's other runs."""

    @property
    def folder(self) -> Path | None:
        return None if self.out is None else Path(self.out)


async def evaluate(
    sets: Sequence[TaskSet],
    assistants: Mapping[str, Assistant],
    *,
    seed: int = 0,
    repeats: int = 1,
    max_concurrency: int = 32,
    out: str | Path | Parts | None = None,
    resume: bool = False,
    private: bool = True,
    checkpoints: str | None = None,
    settings: Mapping[str, Mapping[str, object]] | None = None,
    limits: SpendingLimits | None = None,
    prices: Mapping[str, Price] | None = None,
    progress: Progress | None = None,
    ray: RayOptions | None = None,
) -> Scorecard:
    """Run every task with each assistant, `repeats` times, and score the conversations.

    A conversation that cannot be finished is counted as failed and left out of averages.

    Args:
        sets: The task sets.
        assistants: One or two, by name. The first is compared with the second, on the same tasks, personas and seeds.
        seed: The first repeat's seed; the other seeds are derived from it.
        repeats: How often each task is played.
        max_concurrency: Conversations in progress at once, over all runs, which run concurrently.
        out: A folder for the runs, or `Parts` in it: each set, assistant and seed has a run directory in it.
        resume: Whether to continue the runs in `out`.
        private: Whether the files in `out` are readable by their owner only; otherwise the umask decides.
        checkpoints: The database of the unfinished conversations, as for `generate_trajectories`.
        settings: What to keep in the run.json of each assistant's runs.
        limits: What all runs together may spend, earlier attempts included.
        prices: Prices by model, see `given_prices`.
        progress: An object to keep up to date over all runs. A `ProgressBar` or a `LiveTable` displays itself.
        ray: Plays the conversations in worker processes, as for `generate_trajectories`; all runs share them.

    Raises:
        ConfigError: Before anything is played, for a set without tasks, a task that cannot be played or judged, or
            names that are not distinct.
        RunDirectoryError: As for `generate_trajectories`.
        LimitReached: If conversations were left unplayed because of `limits`, once those under way are kept.

    Example:
        reward = MultiturnReward({"token_cost": token_cost()})
        tasks = TaskSet("trips", list(load_tasks("trips.jsonl")), LLMUser(model), reward)
        scorecard = await evaluate([tasks], {"tuned": tuned, "base": base}, repeats=3, out="evaluation")
        scorecard.sets[0].difference["reward"].value
    """
    if not 1 <= len(assistants) <= 2:
        raise ConfigError(f"assistants must be one, or two to compare, got {len(assistants)}")
    if repeats < 1:
        raise ConfigError(f"repeats must be at least 1, got {repeats}")
    check_checkpoints(checkpoints, out)
    slots = slots_for(max_concurrency)
    seeds = [seed, *(derive_seed(seed, "repeat", repeat) for repeat in range(1, repeats))]
    folders = run_folders([one.name for one in sets], list(assistants), repeats)
    check_simulated(*assistants.values(), *(one.user for one in sets), instead="evaluate with simulated ones")
    for one in sets:
        check_tasks(one.name, one.tasks, one.user, _measured(one.reward))
    runs = [
        _Repeat(
            one,
            side,
            seeds[number],
            out if out is None else _within(out, folders[one.name, side, number]),
            {**one.settings, "assistant": (settings or {}).get(side)},
            _name((one.name, len(sets)), (side, len(assistants)), (f"repeat {number + 1}", repeats)),
        )
        for one in sets
        for side in assistants
        for number in range(repeats)
    ]
    for run in runs:
        await asyncio.to_thread(_check_folder, run, resume, private)
    progress = Progress() if progress is None else progress
    progress.total = sum(len(run.tasks.tasks) for run in runs)
    purse = Purse(limits)
    async with AsyncExitStack() as stack:
        stack.enter_context(progress.open())
        workers = await stack.enter_async_context(open_workers(ray, max_concurrency)) if ray else None
        playing = [
            asyncio.create_task(
                _play(run, assistants[run.side], slots, private, checkpoints, purse, prices, progress, workers)
            )
            for run in runs
        ]
        stack.push_async_callback(cancel, playing)
        results = await asyncio.gather(*playing)
    if purse.refused:
        raise purse.reached(out)
    played: dict[str, dict[str, list[list[Played]]]] = {}
    failed: dict[str, dict[str, int]] = {}
    for run, (found, lost) in zip(runs, results, strict=True):
        played.setdefault(run.tasks.name, {}).setdefault(run.side, []).append(found)
        counts = failed.setdefault(run.tasks.name, {})
        counts[run.side] = counts.get(run.side, 0) + lost
    cards = []
    for one in sets:
        judges = {name: judge for name, judge in one.reward.judges.items() if isinstance(judge, CheckedJudge)}
        card = await asyncio.to_thread(
            score_set,
            one.name,
            played[one.name],
            failed[one.name],
            seeds=seeds,
            metric=one.metric,
            clarifies=one.metric in judges and judges[one.metric].clarifies,
            collaboration=[name for name, judge in judges.items() if judge.collaboration],
        )
        cards.append(card)
    return Scorecard(sets=cards)


def run_folders(sets: Sequence[str], sides: Sequence[str], repeats: int) -> dict[tuple[str, str, int], Path]:
    """Return where an evaluation keeps its runs, by set, assistant and repeat, relative to its folder.

    Raises:
        ConfigError: If names are not distinct, or cannot be a folder's name.
    """
    for what, names in (("task sets", sets), ("assistants", sides)):
        folders = [_folder(name) for name in names]
        for name, folder in zip(names, folders, strict=True):
            if not folder.strip("."):
                raise ConfigError(f"{what}: {name!r} cannot be a name: it needs a letter or a digit")
            if folders.count(folder) > 1:
                raise ConfigError(f"two {what} are named {name!r}, or nearly so: give each a different name")
    return {
        (one, side, number): Path(_folder(one), _folder(side), f"seed-{number}")
        for one in sets
        for side in sides
        for number in range(repeats)
    }


def _name(*parts: tuple[str, int]) -> str:
    """Return the parts of which there are several."""
    return ", ".join(part for part, count in parts if count > 1)


def _within(out: str | Path | Parts, folder: Path) -> Path | Parts:
    there = Path(out) / folder
    return replace(out, path=there) if isinstance(out, Parts) else there


def _folder(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name).strip("-")


def _check_folder(run: _Repeat, resume: bool, private: bool) -> None:
    """Create the run's directory, or check that it can be resumed."""
    if run.out is None or run.folder is None:
        return
    if address_of(run.folder) is None:
        for folder in (run.folder.parent.parent.parent, run.folder.parent.parent, run.folder.parent):
            folder.mkdir(mode=0o700 if private else 0o777, parents=True, exist_ok=True)  # Parents do not get the mode.
    kept = conversation_settings(run.settings, run.tasks.max_exchanges, run.seed)
    with RunDirectory(run.out, settings=kept, resume=resume, private=private) as directory:
        if not directory.finished:
            return
    now = {task.id: task for task in run.tasks.tasks}
    for trajectory in read_trajectories(run.folder):
        if now.get(trajectory.task.id, trajectory.task) != trajectory.task:
            raise RunDirectoryError(
                f"{run.out}: the task {trajectory.task.id!r} has changed since the run: choose another directory"
            )


async def _play(
    run: _Repeat,
    assistant: Assistant,
    slots: asyncio.Semaphore,
    private: bool,
    checkpoints: str | None,
    purse: Purse,
    prices: Mapping[str, Price] | None,
    progress: Progress,
    workers: "Workers | None",
) -> tuple[list[Played], int]:
    stream = play_conversations(
        run.tasks.tasks,
        user=run.tasks.user,
        assistant=assistant,
        reward=_measured(run.tasks.reward),
        max_exchanges=run.tasks.max_exchanges,
        personas=run.tasks.personas,
        seed=run.seed,
        max_concurrency=slots,
        out=run.out,
        resume=True,
        private=private,
        checkpoints=checkpoints,
        settings=run.settings,
        limits=purse,
        prices=prices,
        progress=progress,
        ray=workers,
    )
    played = []
    with run_named(run.name), suppress(LimitReached):  # The other runs finish the turns that are under way.
        async with aclosing(stream):
            async for trajectory in stream:
                played.append(Played.of(trajectory))
    if run.folder is None:
        return played, len(run.tasks.tasks) - len(played)
    return await asyncio.to_thread(_kept, run.folder, {task.id for task in run.tasks.tasks})


def _kept(folder: Path, wanted: set[str]) -> tuple[list[Played], int]:
    there = [Played.of(one) for one in read_trajectories(folder) if one.task.id in wanted]
    return there, sum(failure.task.id in wanted for failure in read_failures(folder))


def _measured(reward: MultiturnReward) -> MultiturnReward:
    """Return the reward with the judges that every scorecard records, at weight 0."""
    for name in reward.judges:
        if name in RESERVED:
            raise ConfigError(f"a judge cannot be named {name!r} here: the scorecard has a measure of that name")
    own = {"asks_first": asks_first(), "assistant_tokens": assistant_tokens(), "user_tokens": user_tokens()}
    added = {name: judge for name, judge in own.items() if name not in reward.judges}
    return MultiturnReward({**reward.judges, **added}, {**reward.weights, **dict.fromkeys(added, 0.0)})
