"""What a run spends and does, told by whoever plays its tasks."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import NamedTuple, Protocol

from collab_agents.costs import Price, given_prices
from collab_agents.errors import LimitReached
from collab_agents.runs.progress import Progress
from collab_agents.runs.spending import Purse
from collab_agents.usage import Usage, track_usage


class Spent(NamedTuple):
    """What was done in another process since its last report."""

    usage: Usage
    candidates: int
    turns: int


class Ledger(Protocol):
    """Where a player enters what it does, and asks before each turn."""

    @property
    def limited(self) -> bool:
        """Whether a turn may be refused."""
        ...

    def counting(self) -> AbstractContextManager[None]:
        """Count the model calls made inside."""
        ...

    def add(self, *, candidates: int, turns: int) -> None:
        """Count candidates and turns that were completed."""
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
        purse.usage.add(self.usage)

    @property
    def limited(self) -> bool:
        return self._purse.limited

    @contextmanager
    def counting(self) -> Iterator[None]:
        with given_prices(self._prices), ExitStack() as stack:
            for usage in self._usages():
                stack.enter_context(track_usage(usage))
            yield

    def add(self, *, candidates: int, turns: int) -> None:
        self.turns += turns
        self._progress.add(candidates=candidates, turns=turns)

    async def check(self) -> None:
        self._purse.check()

    def enter(self, spent: Spent) -> None:
        """Count what was done in another process."""
        for usage in self._usages():
            usage.add(spent.usage)
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
