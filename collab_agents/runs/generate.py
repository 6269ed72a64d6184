"""Many conversations at once: bounded, cancellable, and resumable from a run directory."""

import asyncio
import logging
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
    Set,
    Sized,
)
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from collab_agents._internal.containment import PASS_THROUGH
from collab_agents._internal.distinct import Distinct
from collab_agents._internal.notes import add_errors, refusals
from collab_agents._internal.reasons import reason_of
from collab_agents._internal.stream import Stream, each, make_way, until_done
from collab_agents.assistants import Assistant
from collab_agents.costs import Price, SpendingLimits
from collab_agents.errors import ConfigError, LimitReached, ModelError, RunDirectoryError, WorkersError
from collab_agents.graphs.conversation import Graph, create_conversation_graph
from collab_agents.graphs.rollout import create_rollout_graph
from collab_agents.humans import check_simulated
from collab_agents.lookahead import MAX_EXCHANGES, Lookahead
from collab_agents.participants import problem_for
from collab_agents.personas import Persona, pick_persona
from collab_agents.rewards import MultiturnReward
from collab_agents.runs._collector import fewer_collections
from collab_agents.runs.directory import RunDirectory, changed_task_error, digest
from collab_agents.runs.ledger import RunLedger
from collab_agents.runs.parts import Parts
from collab_agents.runs.player import Player, Plays
from collab_agents.runs.progress import Progress, TaskProgress
from collab_agents.runs.spending import Purse, purse_for
from collab_agents.runs.standing import common
from collab_agents.runs.turns import Turns, check_checkpoints, open_turns
from collab_agents.runs.workers import RayOptions, player_on
from collab_agents.runs.workers.job import PlayJob
from collab_agents.tasks import Task
from collab_agents.tasks.task import check_plain
from collab_agents.trajectories import Failure, Trajectory
from collab_agents.usage import Usage, summed
from collab_agents.users import AnyUser
from collab_agents.value import ValueModel, value_of

if TYPE_CHECKING:
    from collab_agents.runs.workers.playing import RemotePlayer
    from collab_agents.runs.workers.pool import Workers

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE = 10.0
"""Seconds that cancelled tasks get to end. A task that takes longer is abandoned."""

_MOST_REFUSED = 3
"""Stop after this many tasks in a row failed because a model refused its key."""

_NOBODY = "pass a simulated one, or run a single conversation with its graph or with collab-agents chat"


def generate_trajectories(
    tasks: Iterable[Task] | AsyncIterable[Task],
    *,
    user: AnyUser,
    assistant: Assistant,
    reward: MultiturnReward,
    lookahead: Lookahead | None = None,
    personas: Sequence[Persona] = (),
    seed: int = 0,
    max_concurrency: int | asyncio.Semaphore = 32,
    out: str | Path | Parts | None = None,
    resume: bool = False,
    private: bool = True,
    checkpoints: str | None = None,
    settings: Mapping[str, object] | None = None,
    limits: SpendingLimits | Purse | None = None,
    prices: Mapping[str, Price] | None = None,
    progress: Progress | None = None,
    value: ValueModel | None = None,
    ray: "RayOptions | None" = None,
) -> Stream[Trajectory]:
    """Run every task with lookahead and yield the trajectories as they finish.

    All work in progress is cancelled, and `out` released, when the iterator is closed (`aclose`, `async with`) or
    dropped (as by a `break`), when the task that awaits it is cancelled, or when the event loop ends. Resuming the run
    in a later call in the same process closes this iterator, which then raises RunDirectoryError.

    Args:
        tasks: Read as needed, with at most `max_concurrency` in progress; ids must be distinct. No new task begins
            while the caller is busy with a trajectory. A slow source does not delay the tasks in progress.
        user: Plays the user.
        assistant: Gives the candidate replies.
        reward: Scores candidates and finished conversations.
        lookahead: How many candidates and futures, and how long; by default `Lookahead()`.
        personas: Each task is played by one of them, drawn by the seed. Without any, the user has no persona.
        seed: The run's seed.
        max_concurrency: A number, or a semaphore that several runs share.
        out: A run directory or its address, or `Parts`. Finished trajectories are on disk before they are yielded,
            unfinished tasks are kept there after every turn, and tasks that cannot be finished go to failures.jsonl
            with the reason. Without `out`, such tasks are logged.
        resume: Whether to continue the run in `out`. Finished tasks are skipped and not yielded again; unfinished and
            failed tasks continue from their last finished turn.
        private: Whether the files in `out` are readable by their owner only; otherwise the umask decides.
        checkpoints: The address of a PostgreSQL database that keeps the unfinished tasks instead of a file in `out`,
            "postgresql://user@host/database". libpq finds the password in PGPASSWORD, PGPASSFILE or ~/.pgpass.
        settings: More settings to keep in run.json, and to compare when the run is resumed.
        limits: What the run may spend, earlier attempts included. Once it is spent, the turns under way are finished
            and kept, and the iterator raises LimitReached. Several runs can share a `Purse`.
        prices: Prices by model, see `given_prices`.
        progress: An object to keep up to date. A `ProgressBar` or a `LiveTable` displays itself.
        value: Expects rewards of candidates, see `create_rollout_graph`.
        ray: Plays the tasks in worker processes, on this machine or a cluster; see `RayOptions`. The trajectories are
            the same. Limits hold for all workers together, but for those of models in the worker's own process. A task
            whose worker dies is played again: from its last finished turn if there are `checkpoints`, else anew.

    Raises:
        LimitReached: After the last trajectory, if tasks were left unplayed because of `limits`.
        RunDirectoryError: If another process uses `out`, it holds a run and `resume` is not set, or it was made with
            other settings.
        ConfigError: For a repeated task id, a person as user or assistant, or an address that is not PostgreSQL's.
        ModelError: If three tasks in a row fail because a model refuses its key.
        WorkersError: If no worker can be started, or the cluster is gone.

    Example:
        async for trajectory in generate_trajectories(tasks, user=user, assistant=assistant, reward=reward, out="run"):
            print(trajectory.task.id, trajectory.reward)
    """
    check_simulated(user, assistant, instead=_NOBODY)
    lookahead = lookahead or Lookahead()
    value = value or value_of(lookahead)
    kept = {**(settings or {}), "lookahead": lookahead.model_dump(), "seed": seed}
    if value is not None:
        kept["value"] = getattr(value, "digest", type(value).__qualname__)
    played = _play_all(
        tasks,
        partial(
            create_rollout_graph,
            user=user,
            assistant=assistant,
            reward=reward,
            lookahead=lookahead,
            value=value,
            continues=True,
        ),
        max_turns=lookahead.max_exchanges,
        max_candidates=lookahead.candidates,
        settings=kept,
        personas=personas,
        seed=seed,
        max_concurrency=max_concurrency,
        out=out,
        resume=resume,
        private=private,
        checkpoints=checkpoints,
        limits=limits,
        prices=prices,
        progress=progress,
        ray=ray,
    )
    return Stream(played, folder=out)


def play_conversations(
    tasks: Iterable[Task] | AsyncIterable[Task],
    *,
    user: AnyUser,
    assistant: Assistant,
    reward: MultiturnReward,
    max_exchanges: int = MAX_EXCHANGES,
    personas: Sequence[Persona] = (),
    seed: int = 0,
    max_concurrency: int | asyncio.Semaphore = 32,
    out: str | Path | Parts | None = None,
    resume: bool = False,
    private: bool = True,
    checkpoints: str | None = None,
    settings: Mapping[str, object] | None = None,
    limits: SpendingLimits | Purse | None = None,
    prices: Mapping[str, Price] | None = None,
    progress: Progress | None = None,
    ray: "RayOptions | Workers | None" = None,
) -> Stream[Trajectory]:
    """Run every task without lookahead, with one reply per turn, and yield the judged trajectories as they finish.

    The trajectories have no `turns`. The arguments not listed here, and everything else, are as for
    `generate_trajectories`.

    Args:
        tasks: As for `generate_trajectories`.
        user: Plays the user.
        assistant: Answers.
        reward: Scores the finished conversations.
        max_exchanges: The most exchanges of a conversation (one user and one assistant message each).
        personas: As for `generate_trajectories`.
        seed: The run's seed.
        max_concurrency: A number, or a semaphore that several runs share.
        out: A run directory.
        resume: Whether to continue the run in `out`.
        private: Whether the files in `out` are readable by their owner only.
        checkpoints: The database of the unfinished tasks.
        settings: More settings to keep in run.json.
        limits: What the run may spend.
        prices: Prices by model.
        progress: An object to keep up to date.
        ray: Plays the tasks in worker processes.
    """
    check_simulated(user, assistant, instead=_NOBODY)
    played = _play_all(
        tasks,
        partial(create_conversation_graph, user, assistant, max_exchanges=max_exchanges, reward=reward, continues=True),
        max_turns=max_exchanges,
        max_candidates=None,
        settings=conversation_settings(settings, max_exchanges, seed),
        personas=personas,
        seed=seed,
        max_concurrency=max_concurrency,
        out=out,
        resume=resume,
        private=private,
        checkpoints=checkpoints,
        limits=limits,
        prices=prices,
        progress=progress,
        ray=ray,
    )
    return Stream(played, folder=out)


def conversation_settings(settings: Mapping[str, object] | None, max_exchanges: int, seed: int) -> dict[str, object]:
    """Return the settings that `play_conversations` keeps in run.json and compares."""
    return {**(settings or {}), "max_exchanges": max_exchanges, "seed": seed}


def check_tasks(
    source: str, tasks: Iterable[Task], user: Any, reward: MultiturnReward, value: ValueModel | None = None
) -> int:
    """Check every task once, before any work, and return how many there are.

    Args:
        source: Where the tasks come from; errors begin with it.
        tasks: The tasks.
        user: The user who will play them.
        reward: The judges that will score them.
        value: The value model that will be used.

    Raises:
        ConfigError: For the first task that is malformed, repeats an id, lacks what the user or a judge needs, or
            taught the value model, and if there are no tasks.
    """
    seen, count = Distinct(), 0
    for task in tasks:
        check_plain(task)
        if problem := problem_for(user, task) or reward.problem_with(task):
            raise ConfigError(f"{source}: {problem}")
        if value is not None and (problem := value.problem_with(task)):
            raise ConfigError(f"{source}: task {task.id!r}: {problem}; play other tasks, such as another split")
        if not seen.add(task.id):
            raise ConfigError(f"{source}: two tasks have the id {task.id!r}: ids must differ")
        count += 1
    if not count:
        raise ConfigError(f"{source} has no tasks")
    return count


async def _play_all(
    tasks: Iterable[Task] | AsyncIterable[Task],
    make_graph: Callable[[], Graph],
    *,
    max_turns: int,
    max_candidates: int | None,
    settings: Mapping[str, object],
    personas: Sequence[Persona],
    seed: int,
    max_concurrency: int | asyncio.Semaphore,
    out: str | Path | Parts | None,
    resume: bool,
    private: bool,
    checkpoints: str | None,
    limits: SpendingLimits | Purse | None,
    prices: Mapping[str, Price] | None,
    progress: Progress | None,
    ray: "RayOptions | Workers | None",
) -> AsyncGenerator[Trajectory, None]:
    check_checkpoints(checkpoints, out)
    slots = _Slots(slots_for(max_concurrency) if isinstance(max_concurrency, int) else max_concurrency)
    purse = purse_for(limits)
    progress = progress if progress is not None else Progress()
    if progress.total is None and isinstance(tasks, Sized):
        progress.total = len(tasks)
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        stack.enter_context(fewer_collections())
        stack.enter_context(progress.open())
        remote: RemotePlayer | None = None
        if ray is not None:  # Before there is a folder, since much can go wrong.
            job = PlayJob(make_graph, personas, seed, limited=purse.limited, prices=prices or {})
            remote = await stack.enter_async_context(player_on(ray, max_concurrency, job))
        run: RunDirectory | None = None
        turns: Turns | None = None
        if out is not None:
            if resume:
                await make_way(out)
            run = await stack.enter_async_context(RunDirectory(out, settings=settings, resume=resume, private=private))
            turns = await stack.enter_async_context(open_turns(run, checkpoints))
            spent = summed(run.spent, await _spent_on_unfinished(turns, run.finished))
            run.begin(spent, tasks=len(tasks) if isinstance(tasks, Sized) else progress.total)
            purse.usage.add(Usage.of(run.totals))
        ledger = RunLedger(progress, purse, prices or {})
        if run is not None:
            stack.callback(_close, run, ledger, started)

        def persona_of(task: Task) -> Persona | None:
            return pick_persona(personas, seed=seed, task_id=task.id)

        async def last(task: Task) -> dict[str, Any] | None:
            # A fresh run has turns to go on from if a worker that kept them has died.
            if turns is None or not (resume or (remote is not None and turns.shared)):
                return None
            return await _last_turn(turns, task, persona_of(task))

        player: Plays
        if remote is not None:
            shared = None if turns is None else turns.shared
            player = await stack.enter_async_context(remote.open(ledger, last, shared))
        else:
            keep = None if turns is None else turns.keep
            player = Player(make_graph(), personas=personas, seed=seed, ledger=ledger, last=last, keep=keep)
        books = _Books(player, run, turns, progress, ledger, slots, persona_of)

        def row(task: Task) -> TaskProgress:
            persona = persona_of(task)
            return TaskProgress(task.id, persona.name if persona else None, max_turns, max_candidates)

        under_way: set[asyncio.Task[Any]] = set()
        ended: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()

        def begin(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
            one = asyncio.create_task(work, name=name)
            under_way.add(one)
            one.add_done_callback(ended.put_nowait)
            return one

        stack.callback(slots.give_all_back)
        source = _distinct(tasks)
        stack.push_async_callback(source.aclose)
        stack.push_async_callback(cancel, under_way)
        coming: asyncio.Task[Task | None] | None = None
        exhausted = False
        while True:
            if books.stopped and coming is not None:
                under_way.remove(coming)
                await cancel([coming])
                coming = None
            if coming is None and not exhausted and not books.stopped:
                coming = begin(_next(source, slots), "next task")
            if not under_way:
                if books.stopped:
                    raise purse.reached(out)
                return
            one = await ended.get()
            if one not in under_way:
                continue
            under_way.remove(one)
            if one is coming:
                task = coming.result()
                coming, exhausted = None, task is None
                if task is not None and run and task.id in run.finished:
                    slots.give_back()
                    run.check_same(task, persona_of(task))
                    progress.add(skipped=1)
                elif task is not None:
                    begin(books.play(task, row(task)), f"task {task.id}")
            elif (trajectory := one.result()) is not None:
                yield trajectory


class _Books:
    """Has tasks played, and keeps each result."""

    def __init__(
        self,
        player: Plays,
        run: RunDirectory | None,
        turns: Turns | None,
        progress: Progress,
        ledger: RunLedger,
        slots: "_Slots",
        persona_of: Callable[[Task], Persona | None],
    ) -> None:
        self.player = player
        self.run = run
        self.turns = turns
        self.progress = progress
        self.ledger = ledger
        self.slots = slots
        self.persona_of = persona_of
        self.stopped = False
        self.refused = 0

    async def play(self, task: Task, row: TaskProgress) -> Trajectory | None:
        """Have a task played for which a slot was taken."""
        with self.ledger.playing(row):
            try:
                with refusals.taken() as refused:
                    trajectory, line = await self.player.play(task)
                    if self.run is not None and self.turns is not None:
                        self.run.finish(trajectory, line=line, sync=False)
                        await self.turns.forget(task.id)
            except (*PASS_THROUGH, RunDirectoryError, WorkersError):
                raise
            except LimitReached:
                self.stopped = True
                return None
            except BaseException as error:
                self._fail(task, error)
                self._count(refused)
                return None
            finally:
                self.slots.give_back()
        self.refused = 0
        self.progress.add(finished=1)
        return trajectory

    def _fail(self, task: Task, error: BaseException) -> None:
        reason = reason_of(error)
        add_errors(self.progress.errors, {f"task failed: {common(reason)}": 1})
        self.progress.add(failed=1)
        if self.run is None:
            logger.warning("task %s could not be finished: %s", task.id, reason)
        else:
            self.run.fail(Failure(task=task, persona=self.persona_of(task), error=reason))

    def _count(self, refusals: Sequence[str]) -> None:
        """Raise ModelError when several tasks in a row failed because a model refused its key."""
        self.refused = self.refused + 1 if refusals else 0
        if self.refused == _MOST_REFUSED:  # Others that fail at the same time end with the run.
            raise ModelError(f"stopped after {self.refused} tasks in a row, since the model refuses: {refusals[-1]}")


async def _last_turn(turns: Turns, task: Task, persona: Persona | None) -> dict[str, Any] | None:
    """Return the state in which an earlier attempt left the task, if it did."""
    state = await turns.last(task.id)
    if state is not None and digest(state["task"], state.get("persona")) != digest(task, persona):
        raise changed_task_error(task.id)
    return state


def slots_for(max_concurrency: int) -> asyncio.Semaphore:
    """Return a semaphore with a slot per concurrent task, which several runs can share."""
    if max_concurrency < 1:
        raise ConfigError(f"max_concurrency must be at least 1, got {max_concurrency}")
    return asyncio.Semaphore(max_concurrency)


class _Slots:
    """The slots that one run has taken from a semaphore, which other runs may share."""

    def __init__(self, semaphore: asyncio.Semaphore) -> None:
        self._semaphore = semaphore
        self._taken = 0

    async def take(self) -> None:
        await self._semaphore.acquire()
        self._taken += 1

    def give_back(self) -> None:
        if self._taken:  # Else the run has ended and released all its slots.
            self._taken -= 1
            self._semaphore.release()

    def give_all_back(self) -> None:
        while self._taken:
            self.give_back()


async def _next(source: AsyncIterator[Task], slots: _Slots) -> Task | None:
    """Take a slot, as soon as one is free, and return the next task."""
    await slots.take()
    task = await anext(source, None)
    if task is None:
        slots.give_back()
    return task


async def _distinct(tasks: Iterable[Task] | AsyncIterable[Task]) -> AsyncGenerator[Task, None]:
    seen = Distinct()
    async for task in each(tasks):
        check_plain(task)
        if not seen.add(task.id):
            raise ConfigError(f"two tasks have the id {task.id!r}: ids must differ")
        yield task


async def _spent_on_unfinished(turns: Turns, finished: Set[str]) -> dict[str, Any]:
    """Return the usage and turns of unfinished tasks, as far as their turns are finished.

    What is kept of tasks that were finished just before a kill is deleted.
    """
    spent: dict[str, Any] = {}
    for task_id in await turns.task_ids():
        if task_id in finished:
            await turns.forget(task_id)
        elif state := await turns.last(task_id):
            spent = summed(spent, {**state.get("usage", {}), "turns": state.get("exchanges", 0)})
    return spent


async def cancel(under_way: Collection[asyncio.Task[object]]) -> None:
    """Cancel the tasks, and wait for those that clean up."""
    for one in under_way:
        one.cancel()
        one.add_done_callback(lambda done: done.cancelled() or done.exception())
    await until_done(*under_way, seconds=_PATIENCE)


def _close(run: RunDirectory, ledger: RunLedger, started: float) -> None:
    with suppress(RunDirectoryError):  # The disk may be full. The next attempt counts what is on it.
        seconds = round(time.monotonic() - started, 3)
        run.add_totals({**asdict(ledger.usage), "turns": ledger.turns, "seconds": seconds})
