"""What a run has spent, and whether another turn may begin."""

import os

from collab_agents.costs import SpendingLimits
from collab_agents.errors import LimitReached
from collab_agents.usage import Usage


class Purse:
    """The spending of one run, or of several that share their limits.

    Args:
        limits: What may be spent; by default anything.
    """

    def __init__(self, limits: SpendingLimits | None = None) -> None:
        self.limits = limits or SpendingLimits()
        self.usage = Usage()
        """What was spent so far, by earlier attempts too."""
        self.refused = False
        """Whether a turn was refused."""

    @property
    def limited(self) -> bool:
        return self.limits.max_calls is not None or self.limits.max_cost is not None

    def check(self) -> None:
        """Raise LimitReached if no further turn may begin."""
        if problem := self._problem():
            self.refused = True
            raise LimitReached(problem)

    def reached(self, out: str | os.PathLike[str] | None) -> LimitReached:
        """Return the error with which a run in `out` ends after a turn was refused."""
        known = self.limits.max_cost is None or self.usage.cost is not None
        advice = "raise the limit and resume" if known else "set limits.max_calls instead and resume"
        kept = "" if out is None else f"; what is finished is in {out}: {advice}"
        return LimitReached(f"{self._problem()}{kept}")

    def _problem(self) -> str:
        spent, most = self.usage, self.limits
        if most.max_calls is not None and spent.calls >= most.max_calls:
            return f"limits.max_calls is {most.max_calls:,}, and {spent.calls:,} calls were made"
        if most.max_cost is None:
            return ""
        if spent.cost is None:
            models = [name for name, counts in spent.by_model().items() if counts.cost is None]
            return (
                f"limits.max_cost cannot be kept, since the cost of {spent.calls - spent.priced:,} calls is unknown "
                f"({', '.join(models) or 'made by an earlier version'})"
            )
        if spent.cost >= most.max_cost:
            return f"limits.max_cost is {most.max_cost:g} dollars, and {spent.cost:.4g} were spent"
        return ""


def purse_for(limits: SpendingLimits | Purse | None) -> Purse:
    return limits if isinstance(limits, Purse) else Purse(limits)
