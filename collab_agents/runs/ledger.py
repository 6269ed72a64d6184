"""What a run spends and does, told by whoever plays its tasks."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import NamedTuple, Protocol

from collab_agents._internal.notes import add_errors, counting_errors
from collab_agents.costs import Price, given_prices
from collab_agents.errors import LimitReached
from collab_agents.runs.progress import Progress, TaskProgress
from collab_agents.runs.spending import Purse
from collab_agents.runs.standing import Standing
from collab_agents.usage import Usage, track_usage


class Spent(NamedTuple):
    """What was done in another process since its last report."""

    usage: Usage
    candidates: int
    turns: int
    errors: Counter[str]
    """By kind, see `Progress.errors`."""
    standings: dict[str, Standing]
    """How the tasks stand that have changed, by the task's id."""


class Ledger(Protocol):
    """Where a player enters what it does, and asks before each turn."""

    @property
    def limited(self) -> bool:
        """Whether a turn may be refused."""
        ...

    def counting(self) -> AbstractContextManager[None]:
        """Count the model calls made inside, and errors."""
        ...

    def add(self, *, candidates: int, turns: int) -> None:
        """Count candidates and turns that were completed."""
        ...

    def show(self, task_id: str, now: Standing) -> None:
        """Say how a task stands."""
        ...

    async def check(self) -> None:
        """Raise LimitReached if no further turn may begin."""
        ...


class RunLedger:
    """The ledger of a run in this process.

    Args:
        progress: Kept up to date.
        purse: What the run may spend.
        prices: Prices by model, see `given_prices`.

    Attributes:
        usage: The calls and tokens of this attempt at the run.
        turns: The turns that this attempt completed.
    """

    def __init__(self, progress: Progress, purse: Purse, prices: Mapping[str, Price]) -> None:
        self.usage = progress.take_usage_before_runs()
        self.turns = 0
        self._progress = progress
        self._purse = purse
        self._prices = prices
        self._under_way: dict[str, TaskProgress] = {}
        purse.usage.add(self.usage)

    @property
    def limited(self) -> bool:
        return self._purse.limited

    @contextmanager
    def counting(self) -> Iterator[None]:
        with given_prices(self._prices), counting_errors(self._progress.errors), ExitStack() as stack:
            for usage in self._usages():
                stack.enter_context(track_usage(usage))
            yield

    def add(self, *, candidates: int, turns: int) -> None:
        self.turns += turns
        self._progress.add(candidates=candidates, turns=turns)

    @contextmanager
    def playing(self, task: TaskProgress) -> Iterator[None]:
        """Show a task of this run as under way."""
        self._under_way[task.task] = task
        try:
            with self._progress.playing(task):
                yield
        finally:
            del self._under_way[task.task]

    def show(self, task_id: str, now: Standing) -> None:
        if (task := self._under_way.get(task_id)) is not None:
            task.now = now

    async def check(self) -> None:
        self._purse.check()

    def enter(self, spent: Spent) -> None:
        """Count what was done in another process."""
        for usage in self._usages():
            usage.add(spent.usage)
        add_errors(self._progress.errors, spent.errors)
        for task_id, now in spent.standings.items():
            self.show(task_id, now)
        self.add(candidates=spent.candidates, turns=spent.turns)

    def refusal(self) -> str | None:
        """Return why no further turn may begin, or None."""
        try:
            self._purse.check()
        except LimitReached as error:
            return str(error)
        return None

    def _usages(self) -> tuple[Usage, Usage, Usage]:
        return self._progress.usage, self.usage, self._purse.usage
