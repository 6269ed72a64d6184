"""Judging again what was played: other judges or weights for stored conversations and futures. Nothing is played."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Collection, Iterable, Mapping, Sized
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from collab_agents._internal.containment import PASS_THROUGH
from collab_agents._internal.notes import add_errors, counting_errors
from collab_agents._internal.reasons import reason_of
from collab_agents._internal.stream import Stream, each, make_way
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.judges.base import CheckedJudge
from collab_agents.rewards import MultiturnReward
from collab_agents.runs._collector import fewer_collections
from collab_agents.runs._rejudging import Rejudging
from collab_agents.runs.choices import count_choices
from collab_agents.runs.directory import RunDirectory
from collab_agents.runs.generate import cancel
from collab_agents.runs.parts import Parts
from collab_agents.runs.progress import Progress, TaskProgress
from collab_agents.runs.standing import common
from collab_agents.trajectories import Failure, Trajectory
from collab_agents.usage import track_usage

logger = logging.getLogger(__name__)


def rejudge(
    trajectories: Iterable[Trajectory] | AsyncIterable[Trajectory],
    *,
    reward: MultiturnReward,
    drop_faulty: bool = False,
    keep: Collection[str] = (),
    window: int | None = None,
    max_concurrency: int = 32,
    out: str | Path | Parts | None = None,
    resume: bool = False,
    private: bool = True,
    settings: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> Stream[Trajectory]:
    """Judge stored conversations and futures again and yield the trajectories as they finish. Nothing is played.

    Messages and `chosen` stay as they were played; rewards, scores and reasons are new, with the seeds that the judges
    had in play. `changed_choices` says where another candidate would have been chosen. A future that failed in play
    stays failed, and a candidate without futures has no reward. `usage` is that of the judging alone.

    Judges are given what is on disk: `Conversation.state` is empty, and tokens are estimated from the text.

    Args:
        trajectories: Read as needed; the ids of their tasks must be distinct. Those without lookahead are judged as
            wholes.
        reward: Scores futures and whole conversations.
        drop_faulty: As in `Lookahead`.
        keep: Judges of `reward` whose stored scores are kept. What they did not score is judged.
        window: The `window` of the lookahead in play (exchanges). A future with fewer was ended by the user. By
            default, it is the length of the trajectory's longest future.
        max_concurrency: Trajectories in progress at once.
        out: A run directory, as for `generate_trajectories`. A trajectory of which nothing could be scored goes to
            failures.jsonl with the reason. Without `out`, it is logged.
        resume: Whether to continue the run in `out`. Finished trajectories are skipped and not yielded again.
        private: Whether the files in `out` are readable by their owner only; otherwise the umask decides.
        settings: More settings to keep in run.json, and to compare when the run is resumed.
        progress: An object to keep up to date. A `ProgressBar` or a `LiveTable` displays itself.

    Raises:
        ConfigError: For a repeated task id, a `max_concurrency` below 1, or a name in `keep` that is no judge of
            `reward` or reviews the user, whose faults are not stored.
        RunDirectoryError: As for `generate_trajectories`.

    Example:
        reward = MultiturnReward({"polite": rubric(model, criteria="It is polite.")})
        async for trajectory in rejudge(read_trajectories("runs/x"), reward=reward, out="runs/y"):
            print(trajectory.task.id, [choice.best for choice in changed_choices(trajectory)])
    """
    reward = reward.reviewing() if drop_faulty else reward
    _check_kept(keep, reward)
    if max_concurrency < 1:
        raise ConfigError(f"max_concurrency must be at least 1, got {max_concurrency}")
    progress = Progress() if progress is None else progress
    if progress.total is None and isinstance(trajectories, Sized):
        progress.total = len(trajectories)
    look = {"drop_faulty": drop_faulty} | ({} if window is None else {"window": window})
    results = _judge_all(
        _distinct(trajectories),
        Rejudging(reward, drop_faulty=drop_faulty, keep=keep, window=window),
        max_concurrency=max_concurrency,
        out=out,
        resume=resume,
        private=private,
        settings={**(settings or {}), "lookahead": look, "keep": sorted(keep)},
        progress=progress,
    )
    return Stream(results, folder=out)


def _check_kept(keep: Collection[str], reward: MultiturnReward) -> None:
    for name in keep:
        judge = reward.judges.get(name)
        if judge is None:
            raise ConfigError(f"keep: {name!r} is not one of the judges {', '.join(reward.judges)}")
        if isinstance(judge, CheckedJudge) and judge.reviews_user:
            raise ConfigError(f"keep: {name!r} reviews the simulated user, whose faults are not stored: leave it out")


async def _judge_all(
    source: AsyncGenerator[Trajectory, None],
    judge: Rejudging,
    *,
    max_concurrency: int,
    out: str | Path | Parts | None,
    resume: bool,
    private: bool,
    settings: Mapping[str, object],
    progress: Progress,
) -> AsyncGenerator[Trajectory, None]:
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        stack.enter_context(fewer_collections())
        stack.enter_context(progress.open())
        run: RunDirectory | None = None
        if out is not None:
            if resume:
                await make_way(out)
            run = await stack.enter_async_context(RunDirectory(out, settings=settings, resume=resume, private=private))
            run.begin(run.spent, tasks=progress.total)
        results = _Results(run, progress)
        if run is not None:
            stack.push_async_callback(_close, run, results, started)
        under_way: set[asyncio.Task[Any]] = set()
        stack.push_async_callback(source.aclose)
        stack.push_async_callback(cancel, under_way)
        coming: asyncio.Task[Trajectory | None] | None = None
        exhausted = False
        while True:
            if coming is None and not exhausted and len(under_way) < max_concurrency:
                coming = asyncio.create_task(_next(source))
                under_way.add(coming)
            if not under_way:
                return
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            if coming in done:
                under_way.remove(coming)
                done.remove(coming)
                given = coming.result()
                coming, exhausted = None, given is None
                if given is not None and run and given.task.id in run.finished:
                    run.check_same(given.task, given.persona)
                    progress.add(skipped=1)
                elif given is not None:
                    work = results.keep(given, judge)
                    under_way.add(asyncio.create_task(work, name=f"task {given.task.id}"))
            for one in done:
                under_way.remove(one)
                if (trajectory := one.result()) is not None:
                    yield trajectory


class _Results:
    """Keeps what is judged, or why it could not be."""

    def __init__(self, run: RunDirectory | None, progress: Progress) -> None:
        self.run = run
        self.progress = progress
        self.usage = progress.take_usage_before_runs()
        self.turns = 0

    async def keep(self, trajectory: Trajectory, judge: Rejudging) -> Trajectory | None:
        """Judge a trajectory and keep the result, or return None if nothing of it could be scored."""
        persona = trajectory.persona.name if trajectory.persona else None
        with self.progress.playing(TaskProgress(trajectory.task.id, persona)):
            try:
                with track_usage(self.progress.usage), track_usage(self.usage), counting_errors(self.progress.errors):
                    judged = await judge(trajectory)
                if self.run is not None:
                    self.run.finish(judged)
            except (*PASS_THROUGH, RunDirectoryError):
                raise
            except BaseException as error:
                self._fail(trajectory, error)
                return None
        self.turns += len(judged.turns)
        candidates = sum(len(turn.candidates) for turn in judged.turns)
        self.progress.add(finished=1, turns=len(judged.turns), candidates=candidates)
        return judged

    def _fail(self, trajectory: Trajectory, error: BaseException) -> None:
        reason = reason_of(error)
        add_errors(self.progress.errors, {f"task failed: {common(reason)}": 1})
        self.progress.add(failed=1)
        if self.run is None:
            logger.warning("task %s could not be judged: %s", trajectory.task.id, reason)
        else:
            self.run.fail(Failure(task=trajectory.task, persona=trajectory.persona, error=reason))


async def _close(run: RunDirectory, results: _Results, started: float) -> None:
    with suppress(RunDirectoryError):  # The disk may be full. The next attempt counts what is on it.
        seconds = round(time.monotonic() - started, 3)
        run.add_totals({**asdict(results.usage), "turns": results.turns, "seconds": seconds})
        run.note("choices", await asyncio.to_thread(lambda: count_choices(run.trajectories())))


async def _next(source: AsyncIterator[Trajectory]) -> Trajectory | None:
    return await anext(source, None)


async def _distinct(
    trajectories: Iterable[Trajectory] | AsyncIterable[Trajectory],
) -> AsyncGenerator[Trajectory, None]:
    seen: set[str] = set()
    async for trajectory in each(trajectories):
        if trajectory.task.id in seen:
            raise ConfigError(f"two trajectories have the task id {trajectory.task.id!r}: ids must differ")
        seen.add(trajectory.task.id)
        yield trajectory
