"""What a run has done so far: as numbers, to a callback, and as a bar."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from collab_agents.usage import Usage

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN = 0.2
"""How often a bar is drawn anew at most."""


@dataclass
class Progress:
    """What a run has done so far.

    `generate_trajectories`, `play_conversations` and `evaluate` keep it up to date.
    total: tasks there are, where their number is known. finished, failed: tasks of this call. skipped: tasks that were
        done before. running: tasks under way. candidates, turns: completed in this call. usage: calls and tokens of
        this call.
    on_change: called with this object whenever one of these has changed, usage aside, on the event loop: it must not
        wait. If it raises, that is logged, and it is not called again.
    """

    total: int | None = None
    finished: int = 0
    failed: int = 0
    skipped: int = 0
    running: int = 0
    candidates: int = 0
    turns: int = 0
    usage: Usage = field(default_factory=Usage)
    on_change: Callable[["Progress"], Any] | None = field(default=None, repr=False)
    _begun: bool = field(default=False, init=False, repr=False)
    _runs: int = field(default=0, init=False, repr=False)

    @property
    def done(self) -> int:
        """Tasks finished, failed or skipped."""
        return self.finished + self.failed + self.skipped

    @contextmanager
    def open(self) -> Iterator[None]:
        """Around a run, or around several that share this object; `end` is called when the outermost has ended."""
        self._runs += 1
        try:
            yield
        finally:
            self._runs -= 1
            if not self._runs:
                self.end()

    def end(self) -> None:
        """All is done, or has been stopped."""

    def take_usage_before_runs(self) -> Usage:
        """Return what was spent before the first run began, such as on checking models, for that run to count.

        Later runs get nothing.
        """
        before = Usage() if self._begun else replace(self.usage)
        self._begun = True
        return before

    def add(self, **changes: int) -> None:
        """Add to the numbers, by name, and say so."""
        for name, change in changes.items():
            setattr(self, name, getattr(self, name) + change)
        if self.on_change is None or not any(changes.values()):
            return
        try:
            self.on_change(self)
        except Exception:
            logger.exception("on_change of the progress failed, and is not called again")
            self.on_change = None


class ProgressBar(Progress):
    """A `Progress` that shows itself: in a notebook as a widget, elsewhere as a line of stderr.

        async for trajectory in generate_trajectories(tasks, ..., progress=ProgressBar()):

    options: for `tqdm.auto.tqdm`, such as `desc`. A notebook needs ipywidgets for the widget, and shows a line without.
    """

    def __init__(self, total: int | None = None, **options: Any) -> None:
        super().__init__(total=total, on_change=self._draw)
        self._options = {"unit": "task", "disable": False, **options}  # Some libraries turn bars off for all.
        self._bar: Any = None
        self._drawn = 0.0

    def end(self) -> None:
        if self._bar is not None:
            self._drawn = 0.0
            self._draw(self)
            self._bar.close()
            self._bar = None

    def _draw(self, _: Progress) -> None:
        if self._bar is None:
            from tqdm.auto import tqdm  # Which warns in a notebook that has no widgets.

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
