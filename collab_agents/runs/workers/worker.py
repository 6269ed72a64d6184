"""What a worker process does: it plays items of jobs, and reports what it spends."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, Protocol

from collab_agents._internal.containment import PASS_THROUGH
from collab_agents._internal.notes import counting_errors, refusals
from collab_agents._internal.reasons import reason_of
from collab_agents.costs import Price, given_prices
from collab_agents.errors import LimitReached, RunDirectoryError
from collab_agents.models.shares import Share, take_share
from collab_agents.runs._collector import fewer_collections
from collab_agents.runs.ledger import Ledger, Spent
from collab_agents.runs.standing import Standing
from collab_agents.runs.workers.packing import unpack
from collab_agents.usage import Usage, track_usage

_REPORTS = 20
"""The most reports a second of all workers that nobody waits for, of which each takes the driver 2 ms."""

Work = Callable[[Any], Awaitable[Any]]
"""Plays one item, and returns what came of it."""


class Job(Protocol):
    """What workers do for one run."""

    @property
    def limited(self) -> bool:
        """Whether a turn needs the run's consent."""
        ...

    @property
    def prices(self) -> Mapping[str, Price]:
        """Prices by model, see `given_prices`."""
        ...

    async def open(self, ledger: Ledger) -> Work:
        """Return what plays the job's items; called once in each worker."""
        ...


class Outcome(NamedTuple):
    """What came of an item."""

    value: Any
    """What the work returned; None if it failed."""
    failure: str | None
    """Why it failed."""
    ends: type[Exception] | None
    """The error that ends the whole run instead of failing one item."""
    refusals: list[str]
    """Models that refused their key, see `notes.refusals`."""
    spent: Spent


class WorkerLedger:
    """The ledger of a job in a worker. Another turn begins once the run's own process has agreed to it."""

    def __init__(self, *, limited: bool, prices: Mapping[str, Price], ask: Callable[[], Awaitable[None]]) -> None:
        self.limited = limited
        self._prices = prices
        self._ask = ask
        self._usage = Usage()
        self._candidates = self._turns = 0
        self._errors: Counter[str] = Counter()
        self._standings: dict[str, Standing] = {}

    @contextmanager
    def counting(self) -> Iterator[None]:
        with given_prices(self._prices), counting_errors(self._errors), track_usage(self._usage):
            yield

    def add(self, *, candidates: int, turns: int) -> None:
        self._candidates += candidates
        self._turns += turns

    def show(self, task_id: str, now: Standing) -> None:
        self._standings[task_id] = now

    async def check(self) -> None:
        if self.limited:
            await self._ask()

    def take(self) -> Spent:
        """Return what was done since the last time."""
        usage = Usage()
        # Work in progress goes on counting in the same object.
        vars(usage).update(vars(self._usage))
        vars(self._usage).update(vars(Usage()))
        spent = Spent(usage, self._candidates, self._turns, self._errors.copy(), self._standings)
        self._candidates = self._turns = 0
        self._errors.clear()
        self._standings = {}
        return spent


class Worker:
    """Plays items of jobs, with a share of the run's limits.

    Args:
        index: Its number among the workers.
        count: The number of workers.
        opens_in: Seconds until its calls under a rate limit may begin.
    """

    def __init__(self, index: int, count: int, opens_in: float) -> None:
        take_share(Share(index, count, time.monotonic() + opens_in))
        self._jobs: dict[str, tuple[Work, WorkerLedger]] = {}
        self._asking: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self._asked = asyncio.Event()
        self._seconds = max(1.0, count / _REPORTS)
        self._answering: dict[str, list[asyncio.Future[None]]] = {}
        self._collector = ExitStack()

    async def load(self, name: str, packed: bytes) -> str | None:
        """Load a job. Returns why that is impossible, or None."""
        try:
            job: Job = await asyncio.to_thread(unpack, packed)
            ledger = WorkerLedger(limited=job.limited, prices=job.prices, ask=partial(self._ask, name))
            self._jobs[name] = await job.open(ledger), ledger
            self._collector.enter_context(fewer_collections())  # Until the process ends.
        except Exception as error:
            return reason_of(error)
        return None

    async def play(self, name: str, item: Any) -> Outcome:
        """Play an item of a job."""
        work, ledger = self._jobs[name]
        value, failure, ends = None, None, None
        with refusals.taken() as refused:
            try:
                value = await work(item)
            except (LimitReached, RunDirectoryError) as error:
                failure, ends = str(error), type(error)
            except PASS_THROUGH:
                raise
            except BaseException as error:
                failure = reason_of(error)
        return Outcome(value, failure, ends, refused, ledger.take())

    async def report(self, answers: Mapping[str, str | None]) -> tuple[dict[str, Spent], list[str]]:
        """Answer those that asked, wait for others or for a while, and return what was done and who asks.

        Args:
            answers: For each job in which somebody asked at the last report, why no turn may begin, or None.
        """
        for name, refusal in answers.items():
            for waiting in self._answering.pop(name, []):
                if not waiting.done():
                    waiting.set_exception(LimitReached(refusal)) if refusal else waiting.set_result(None)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await self._asked.wait()
        self._asked.clear()
        for name, asking in self._asking.items():
            self._answering.setdefault(name, []).extend(asking)
        self._asking.clear()
        return {name: ledger.take() for name, (_, ledger) in self._jobs.items()}, list(self._answering)

    async def _ask(self, name: str) -> None:
        """Wait until a turn of the job may begin. Raises LimitReached if it may not."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asking[name].append(answer)
        self._asked.set()
        await answer
