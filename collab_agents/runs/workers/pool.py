"""Worker processes on Ray, and which of them plays what. The driver's side."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import count
from typing import Any, Protocol

import ray
from ray.cloudpickle import register_pickle_by_value
from ray.exceptions import ObjectLostError, RayActorError, RayError
from ray.util.client.common import ClientObjectRef

from collab_agents._internal.notes import refusals
from collab_agents.errors import RolloutError, WorkersError
from collab_agents.runs.ledger import Spent
from collab_agents.runs.workers import actor
from collab_agents.runs.workers.cluster import actor_options, connected, nodes_in_words, room_for
from collab_agents.runs.workers.options import RayOptions
from collab_agents.runs.workers.packing import Packer, local_modules
from collab_agents.runs.workers.worker import Job, Outcome

logger = logging.getLogger(__name__)

_MOST_DEATHS = 4
"""After this many deaths of workers that played an item, the item fails."""
_SUSPECT_DEATHS = 2
"""After this many, it is played alone, so that it takes no other with it if it is the cause."""
_MOST_STARTS = 3
"""After this many deaths in a row of workers that had not begun anything, no further one takes their place."""
_PATIENCE = 2.0
"""Seconds to wait for the last reports when a run ends early."""
_GONE = (RayActorError, ObjectLostError)
"""What a call raises if its worker died, or the node that held its result."""

register_pickle_by_value(actor)


class Account(Protocol):
    """Where a job's work is entered, and who consents to its turns."""

    def enter(self, spent: Spent) -> None:
        """Count what workers did."""
        ...

    def refusal(self) -> str | None:
        """Return why no further turn may begin, or None."""
        ...


@dataclass
class _Member:
    """A worker that is ready."""

    actor: Any
    node: str
    busy: int = 0
    """Items that it plays."""
    reserved: bool = False
    """Whether it takes no further items, since it is to play one alone."""
    alone: bool = False
    """Whether it plays one alone."""
    taken: int = 0
    """Items that it was given so far."""
    dead: bool = False
    """Whether a call has found it dead."""
    loaded: dict[str, asyncio.Task[str | None]] = field(default_factory=dict)


class _Died(Exception):
    """A worker died while it played an item."""


class Workers:
    """Worker processes. Use `open_workers`.

    Args:
        options: The cluster, and what each worker takes.
        most: The most items in progress.
    """

    def __init__(self, options: RayOptions, most: int) -> None:
        self._options = options
        self._most = most
        self._packer = Packer()
        self._connection = ExitStack()
        self._jobs: dict[str, Any] = {}
        self._accounts: dict[str, Account] = {}
        self._members: list[_Member] = []
        self._changed = asyncio.Condition()
        self._slots: dict[int, asyncio.Task[None]] = {}
        self._given_up: dict[int, str] = {}
        self._alive = 0.0
        self._count = 0
        self._numbers = count()
        self._named = False

    async def _start(self) -> None:
        """Start the workers, and wait until the first is ready. Raises WorkersError if none can be started."""
        self._named = self._connection.enter_context(connected(self._options, local_modules()))
        self._alive = time.monotonic()
        room = room_for(self._options, ray.nodes())
        self._count = self._options.workers or max(1, min(room, self._most))
        if room < 1 and self._options.address is None:
            raise WorkersError(f"no worker can be started: each needs {self._needs()}, and {self._has()}")
        for index in range(self._count):
            self._slots[index] = asyncio.create_task(self._fill(index), name=f"worker {index}")
        async with self._changed:
            while not self._members:
                await self._hope()

    async def close(self) -> None:
        """End all workers."""
        for slot in self._slots.values():
            slot.cancel()
        if self._slots:
            await asyncio.wait(self._slots.values())
        self._connection.close()

    async def add(self, job: Job) -> str:
        """Add a job, and return its name once a worker has loaded it.

        Raises:
            ConfigError: If it holds something that cannot be sent to workers.
            WorkersError: If no worker can be started, or the first one cannot load the job.
        """
        packed = self._packer.pack(job)
        if not self._slots:
            await self._start()
        name = f"job {next(self._numbers)}"
        self._jobs[name] = ray.put(packed)
        async with self._place(alone=False) as member:
            try:
                await self._loaded(member, name)
            except _GONE as error:
                raise WorkersError(
                    f"the worker on {member.node} died while it loaded the run: {_reason(error)}"
                ) from error
        return name

    @asynccontextmanager
    async def billing(self, name: str, account: Account) -> AsyncIterator[None]:
        """Enter what is done for a job in an account, while items of it are run."""
        self._accounts[name] = account
        try:
            yield
        finally:
            await self._settle(name)
            del self._accounts[name]

    async def _settle(self, name: str) -> None:
        """Enter what was spent on items that were cancelled."""
        asked = [asyncio.ensure_future(_last_report(one.actor)) for one in self._members if name in one.loaded]
        for done in (await asyncio.wait(asked, timeout=_PATIENCE))[0] if asked else ():
            with suppress(RayError):
                self._enter(done.result()[0])

    async def run(self, name: str, item: Callable[[], Awaitable[Any]], label: str) -> Any:
        """Have an item of a job played, and return what came of it.

        Args:
            name: The job.
            item: Returns what is sent to the worker; called again if the worker dies.
            label: Its name in Ray's dashboard, see `connected`.

        Raises:
            RolloutError: If it failed, or workers that played it died again and again.
            LimitReached: If a turn was refused.
            WorkersError: If a worker cannot load the job, or there are no workers any more.
        """
        deaths = 0
        while True:
            async with self._place(alone=deaths >= _SUSPECT_DEATHS) as member:
                try:
                    outcome = await self._play(member, name, await item(), label if self._named else None)
                except _Died as death:
                    deaths += 1
                    if deaths == _MOST_DEATHS:
                        raise RolloutError(f"{deaths} workers died while they played it; the last: {death}") from death
                    continue
            self._accounts[name].enter(outcome.spent)
            for refusal in outcome.refusals:
                refusals.add(refusal)
            if outcome.failure is None:
                return outcome.value
            raise (outcome.ends or RolloutError)(outcome.failure)

    async def _play(self, member: _Member, name: str, item: Any, label: str | None) -> Outcome:
        call = None
        try:
            await self._loaded(member, name)
            member.taken += 1
            play = member.actor.play
            call = (play.options(name=label) if label else play).remote(name, item)
            outcome: Outcome = await _answer(call)
            return outcome
        except _GONE as error:
            member.dead = True
            raise _Died(f"on {member.node}, {_reason(error)}") from error
        except asyncio.CancelledError:
            if call is not None:
                with suppress(RayError):
                    ray.cancel(call)
            raise

    async def _loaded(self, member: _Member, name: str) -> None:
        """Wait until the worker has loaded the job. Raises WorkersError if it cannot."""
        self._load_all(member)
        if (problem := await asyncio.shield(member.loaded[name])) is not None:
            raise WorkersError(f"the worker on {member.node} cannot load the run: {problem}")

    def _load_all(self, member: _Member) -> None:
        for name in self._jobs.keys() - member.loaded.keys():
            member.loaded[name] = asyncio.create_task(_load(member.actor, name, self._jobs[name]))

    @asynccontextmanager
    async def _place(self, *, alone: bool) -> AsyncIterator[_Member]:
        """Wait for a worker that has room, and take a place in it: its only one if `alone`."""
        async with self._changed:
            try:
                while (member := self._choose(alone)) is None:
                    await self._hope()
            except BaseException:
                for one in self._members:  # Others that wait to be alone reserve it again.
                    one.reserved = one.alone
                raise
            member.busy += 1
            member.reserved = member.alone = alone
        try:
            yield member
        finally:
            member.busy -= 1
            if alone:
                member.reserved = member.alone = False
            await self._notify()

    def _choose(self, alone: bool) -> _Member | None:
        room = 1 if alone else -(-self._most // self._count)
        alive = [one for one in self._members if not one.dead]
        free = [one for one in alive if not one.reserved and one.busy < room]
        if free:
            return min(free, key=lambda one: one.busy)
        reserved = [one for one in alive if one.reserved]
        if alone and not reserved and alive:
            min(alive, key=lambda one: one.busy).reserved = True
        return next((one for one in reserved if not one.busy), None) if alone else None

    async def _hope(self) -> None:
        """Wait for a change. Raises WorkersError if there is no worker, and none is to come."""
        if self._members:
            await self._changed.wait()
            return
        for slot in self._slots.values():
            if slot.done() and not slot.cancelled():
                slot.result()  # Raises what should not have happened.
        if len(self._given_up) == self._count:
            raise WorkersError("; ".join(dict.fromkeys(self._given_up.values())))
        left = self._alive + self._options.start_seconds - time.monotonic()
        try:
            async with asyncio.timeout(left):
                await self._changed.wait()
        except TimeoutError:
            raise WorkersError(
                f"no worker could be started within {self._options.start_seconds:g} s: each needs {self._needs()}, "
                f"and {self._has()}"
            ) from None

    async def _fill(self, index: int) -> None:
        """Start a worker and, when it dies, another one in its place."""
        fruitless, opens_in = 0, 0.0
        while fruitless < _MOST_STARTS:
            taken, reason, final = await self._keep(index, opens_in)
            if final:
                break
            logger.warning("worker %d died (%s); its unfinished tasks are played again", index, reason)
            fruitless = 0 if taken else fruitless + 1
            opens_in = 60.0  # The dead one may just have used its share of a minute's requests.
        self._given_up[index] = reason
        logger.warning("there is no more worker %d: %s", index, reason)
        await self._notify()

    async def _keep(self, index: int, opens_in: float) -> tuple[int, str, bool]:
        """Start a worker and stay with it until it dies.

        Returns how many items it was given, why it ended, and whether another one would end in the same way.
        """
        kind = ray.remote(actor.Actor).options(
            max_concurrency=max(1000, 2 * self._most), **actor_options(self._options)
        )
        share = (index, self._count, opens_in)
        folder = None if "working_dir" in self._options.runtime_env else os.getcwd()
        handle = kind.remote(version("collab-agents"), folder, [one for one in sys.path if one], share)
        member: _Member | None = None
        try:
            about = await _answer(handle.about.remote())
            if about["problem"]:
                return 0, f"the node {about['node']} {about['problem']}", True
            member = _Member(handle, about["node"])
            self._members.append(member)
            self._load_all(member)
            await self._notify()
            await self._listen(member)
        except _GONE as error:
            return member.taken if member else 0, _reason(error), False
        except RayError as error:  # Such as a runtime environment that cannot be made.
            return 0, f"a worker cannot be started: {_reason(error)}", True
        finally:
            if member is not None:
                self._members.remove(member)
                self._alive = time.monotonic()
            with suppress(RayError, ValueError):
                ray.kill(handle)
            await self._notify()
        raise AssertionError("a worker is listened to until it dies")

    async def _listen(self, member: _Member) -> None:
        """Enter the worker's reports and answer its questions until it dies."""
        answers: dict[str, str | None] = {}
        while True:
            spent, asking = await _answer(member.actor.report.remote(answers))
            self._enter(spent)
            answers = {name: self._accounts[name].refusal() for name in asking if name in self._accounts}

    def _enter(self, spent: Mapping[str, Spent]) -> None:
        for name, one in spent.items():
            if name in self._accounts:
                self._accounts[name].enter(one)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _needs(self) -> str:
        return ", ".join(f"{name} {amount:g}" for name, amount in self._options.resources.items())

    def _has(self) -> str:
        return f"the nodes of the cluster have {nodes_in_words(ray.nodes())}"


@asynccontextmanager
async def open_workers(options: RayOptions, most: int) -> AsyncIterator[Workers]:
    """Yield workers, which are started with their first job, and end them.

    Args:
        options: The cluster, and what each worker takes.
        most: The most items in progress.
    """
    workers = Workers(options, most)
    try:
        yield workers
    finally:
        await workers.close()


async def _answer(call: Awaitable[Any]) -> Any:
    """Wait for a call."""
    if not isinstance(call, ClientObjectRef):
        return await call
    # If this is cancelled, the call's future is not: Ray's client (ray://) fails on one that is.
    future = asyncio.ensure_future(call)
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(future)


async def _load(handle: Any, name: str, packed: Any) -> str | None:
    problem: str | None = await _answer(handle.load.remote(name, packed))
    return problem


async def _last_report(handle: Any) -> tuple[dict[str, Spent], list[str]]:
    report: tuple[dict[str, Spent], list[str]] = await _answer(handle.report.remote({}))
    return report


_TABLE = ("class_name", "actor_id", "namespace", "pid", "ip")
"""What the lines of Ray's table about an actor begin with."""


def _reason(error: BaseException) -> str:
    """Return why a worker died, without Ray's tables and addresses."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_TABLE))[:300] or type(error).__name__
