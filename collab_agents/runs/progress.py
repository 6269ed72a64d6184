"""A run's progress: as numbers, to a callback, and as a bar."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from collab_agents.runs.standing import Standing
from collab_agents.usage import Usage

if TYPE_CHECKING:
    from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN = 0.2
"""The shortest time between two updates of a bar."""


_run: ContextVar[str] = ContextVar("collab_agents_run", default="")


@contextmanager
def run_named(name: str) -> Iterator[None]:
    """Give the tasks of a run that is played inside the run's name."""
    token = _run.set(name)
    try:
        yield
    finally:
        _run.reset(token)


@dataclass(eq=False)
class TaskProgress:
    """A task under way. Its texts come from files and models: make them harmless before you show them."""

    task: str
    """The task's id."""
    persona: str | None = None
    """The persona's name."""
    max_turns: int | None = None
    """The most turns that it can take."""
    max_candidates: int | None = None
    """The candidates of each turn; None without lookahead."""
    run: str = field(default_factory=_run.get)
    """In an evaluation, what tells its runs apart: the set, the assistant and the repeat, where there are several."""
    began: float = field(default_factory=time.monotonic)
    """When it began, by `time.monotonic`."""
    now: Standing = field(default_factory=Standing)
    """How it stands. With `ray`, as its worker last reported, which is a second ago or, with many workers, a few."""


@dataclass
class Progress:
    """What a run has done so far; `generate_trajectories`, `play_conversations` and `evaluate` keep it up to date."""

    total: int | None = None
    """The number of tasks, where it is known."""
    finished: int = 0
    """Tasks finished in this call."""
    failed: int = 0
    """Tasks that failed in this call."""
    skipped: int = 0
    """Tasks that were done before."""
    running: int = 0
    """Tasks in progress."""
    candidates: int = 0
    """Candidates completed in this call."""
    turns: int = 0
    """Turns completed in this call."""
    usage: Usage = field(default_factory=Usage)
    """Calls and tokens of this call."""
    errors: Counter[str] = field(default_factory=Counter)
    """Errors of this call by kind: calls that were tried again, unusable answers, missing scores, and candidates,
    futures and tasks that failed."""
    on_change: Callable[["Progress"], object] | None = field(default=None, repr=False)
    """Called with this object when any of the numbers above but `usage` and `errors` has changed. It runs on the event
    loop and must not block.

    If it raises, the exception is logged and it is not called again.
    """
    _under_way: dict[TaskProgress, None] = field(default_factory=dict, init=False, repr=False, compare=False)
    _begun: bool = field(default=False, init=False, repr=False)
    _runs: int = field(default=0, init=False, repr=False)

    @property
    def done(self) -> int:
        """Tasks finished, failed or skipped."""
        return self.finished + self.failed + self.skipped

    @property
    def under_way(self) -> Collection[TaskProgress]:
        """The tasks in progress, the longest first. Read it on the event loop."""
        return self._under_way.keys()

    @contextmanager
    def playing(self, task: TaskProgress) -> Iterator[None]:
        """Show a task as under way."""
        self._under_way[task] = None
        self.add(running=1)
        try:
            yield
        finally:
            del self._under_way[task]
            self.add(running=-1)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Mark a run as open. Several runs may share this object: `begin` is for the first, `end` for the last."""
        self._runs += 1
        try:
            if self._runs == 1:
                self.begin()
            yield
        finally:
            self._runs -= 1
            if not self._runs:
                self.end()

    def begin(self) -> None:
        """Called on the event loop before the first run, and again if another begins after all have ended."""

    def end(self) -> None:
        """Called when all runs have ended, finished or not."""

    def take_usage_before_runs(self) -> Usage:
        """Return what was spent before the first run, such as on checking models, to be counted in that run.

        Later runs get an empty `Usage`.
        """
        before = Usage()
        if not self._begun:
            before.add(self.usage)
        self._begun = True
        return before

    def add(self, **changes: int) -> None:
        """Add to the numbers, by name, and call `on_change`."""
        for name, change in changes.items():
            setattr(self, name, getattr(self, name) + change)
        if self.on_change is None or not any(changes.values()):
            return
        try:
            self.on_change(self)
        except Exception:
            logger.exception("Progress.on_change raised an exception and will not be called again")
            self.on_change = None


class ProgressBar(Progress):
    """A `Progress` that displays itself: as a widget in a notebook, elsewhere as a line on stderr.

    Args:
        total: The number of tasks, where it is known.
        **options: For `tqdm.auto.tqdm`, such as `desc`. Without ipywidgets, a notebook shows a line too.

    Example:
        async for trajectory in generate_trajectories(tasks, ..., progress=ProgressBar()):
            ...
    """

    def __init__(self, total: int | None = None, **options: Any) -> None:
        super().__init__(total=total, on_change=self._draw)
        self._options = {"unit": "task", "disable": False, **options}  # Some libraries disable all bars.
        self._bar: tqdm | None = None
        self._drawn = 0.0

    def end(self) -> None:
        """Draw the bar for the last time and close it."""
        if self._bar is not None:
            self._drawn = 0.0
            self._draw(self)
            self._bar.close()
            self._bar = None

    def _draw(self, _: Progress) -> None:
        if self._bar is None:
            from tqdm.auto import tqdm  # It warns in a notebook without widgets.

            self._bar = tqdm(total=self.total, **self._options)
        if time.monotonic() < self._drawn + _SECONDS_BETWEEN:
            return
        self._drawn = time.monotonic()
        self._bar.n = self.done
        tokens = self.usage.input_tokens + self.usage.output_tokens
        self._bar.set_postfix_str(
            f"{self.running} under way, {self.failed} failed, {self.turns} turns, "
            f"{self.usage.calls} calls, {tokens:,} tokens"
        )
