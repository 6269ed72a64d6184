"""The table of a run under way, and its progress in a line. Does not know where they are displayed."""

import time
import unicodedata
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from collab_agents._internal.text import harmless, valid
from collab_agents.runs.progress import Progress, TaskProgress
from collab_agents.usage import dollars

_RATE_SECONDS = 10.0
"""Over which calls per second are counted."""
_ENOUGH = 5
"""The fewest ended tasks from which the time left is estimated."""
_MOST_ERRORS = 3
_SHORTEST_BAR = 10
_GAP = 2
"""Between two columns."""
_LEAST_WORDS = 16
"""The narrowest column of words; before it gets narrower, other columns are left out."""


class _Column(NamedTuple):
    title: str
    width: int
    cells: Sequence[Text]
    right: bool = False


class RunTable:
    """Draws a run's progress. It remembers which tasks it showed, so that a row stays in its place."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._started = time.monotonic()
        self._calls: deque[tuple[float, int]] = deque([(self._started, progress.usage.calls)])
        self._shown: list[TaskProgress] = []
        self._widths: dict[str, int] = {}

    def line(self) -> str:
        """Return what was done so far."""
        seconds, progress, usage = self._seconds(), self._progress, self._progress.usage
        spent = f"  dollars {dollars(usage)}" if usage.dollars else ""
        done = f"{progress.finished + progress.skipped}/{progress.total}"
        return (
            f"tasks {done} ({progress.running} under way, {progress.failed} failed)  turns {progress.turns}  "
            f"calls {usage.calls} ({usage.calls / max(seconds, 1e-3):.1f}/s)  "
            f"tokens {usage.input_tokens + usage.output_tokens:,}{spent}  {seconds:.0f} s"
        )

    def time_left(self) -> str:
        """Return about how long the rest takes, or "" before that can be told.

        Tasks that end first are short ones, so as many must have ended as are under way.
        """
        progress = self._progress
        ended = progress.finished + progress.failed
        if progress.total is None or ended < max(_ENOUGH, progress.running) or progress.done >= progress.total:
            return ""
        minutes = (progress.total - progress.done) * self._seconds() / ended / 60
        if minutes < 1:
            return "less than a minute left"
        hours, rest = divmod(round(minutes), 60)
        return f"about {f'{hours} h ' if hours else ''}{rest} min left"

    def draw(self, width: int, height: int) -> RenderableType:
        """Return the table for so many columns and lines."""
        errors = self._errors(max(0, min(_MOST_ERRORS, (height - 4) // 2)))
        footer: list[RenderableType] = [self._bar(width), self._numbers(), *errors]
        room = height - len(footer) - 2
        if room < 1 or not self._progress.under_way:
            return Group(*footer[:height])
        rows = self._rows(room)
        hidden = len(self._progress.under_way) - len(rows)
        more = Text(f"and {hidden:,} more under way" if hidden else "", style="dim")
        return Group(self._table(rows, width), more, *footer)

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _rows(self, room: int) -> list[TaskProgress]:
        """Return the tasks to show: each in its place, and in free places those longest under way."""
        under_way = self._progress.under_way
        kept = [one if one in under_way else None for one in self._shown[:room]]
        there = set(kept)
        others = (one for one in under_way if one not in there)
        filled = [one or next(others, None) for one in kept]
        self._shown = [one for one in filled if one is not None]
        self._shown += islice(others, room - len(self._shown))
        return self._shown

    def _table(self, rows: Sequence[TaskProgress], width: int) -> Table:
        columns, words = self._columns(rows, width)
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
        for one in columns:
            justify = "right" if one.right else "left"
            table.add_column(one.title, width=one.width, no_wrap=True, justify=justify)  # type: ignore[arg-type]
        if words:
            table.add_column("last words", width=words, no_wrap=True)
        for number, row in enumerate(rows):
            said = [Text.assemble((f"{row.now.speaker}: ", "dim"), _shown(row.now.words))] if row.now.words else []
            table.add_row(*(one.cells[number] for one in columns), *(said if words else []))
        return table

    def _columns(self, rows: Sequence[TaskProgress], width: int) -> tuple[list[_Column], int]:
        """Return the columns that fit, and the width that is left for the last words."""
        ahead = any(row.max_candidates for row in rows)
        now = time.monotonic()
        columns = [
            self._texts("task", [row.task for row in rows], max(12, width // 5)),
            self._texts("run", [row.run for row in rows], width // 5),
            self._texts("persona", [row.persona or "" for row in rows], 18),
            _Column("turn", 5, [Text(_of(row.now.turn, row.max_turns)) for row in rows], right=True),
            _Column("candidates", 10, [Text(_of(row.now.candidates, row.max_candidates)) for row in rows], right=True),
            _Column("reward", 7, [Text(_reward(row.now.reward)) for row in rows], right=True),
            _Column("time", 7, [Text(_clock(now - row.began)) for row in rows], right=True),
        ]
        unused = {one.title for one in columns if one.title in ("run", "persona") and not self._widths[one.title]}
        unused |= set() if ahead else {"candidates", "reward"}
        if not any(row.max_turns for row in rows):
            unused.add("turn")
        columns = [one for one in columns if one.title not in unused]
        for dropped in ("time", "persona", "candidates", "reward", "run", "turn"):
            if _left(columns, width) >= _LEAST_WORDS:
                break
            columns = [one for one in columns if one.title != dropped]
        words = _left(columns, width)
        return columns, words if words >= _LEAST_WORDS // 2 else 0

    def _texts(self, title: str, texts: Sequence[str], most: int) -> _Column:
        """Return a column that is as wide as the widest text so far, and so does not change all the time."""
        cells = [_shown(text) for text in texts]
        self._widths[title] = max(self._widths.get(title, 0), *(cell.cell_len for cell in cells))
        width = min(max(self._widths[title], len(title)), most)
        return _Column(title, width, [_short(cell, width) for cell in cells])

    def _bar(self, width: int) -> RenderableType:
        progress = self._progress
        done = progress.finished + progress.skipped
        words = Text(f"{done:,} of {progress.total:,} tasks" if progress.total is not None else f"{done:,} tasks")
        more = [f"{progress.running:,} under way"]
        if progress.skipped:
            more.append(f"{progress.skipped:,} from before")
        told = Text(", ".join(more))
        if progress.failed:
            told.append(", ").append(f"{progress.failed:,} failed", style="red")
        left = self.time_left()
        told.append(f"  {_clock(self._seconds())}{f', {left}' if left else ''}")
        room = width - words.cell_len - told.cell_len - 2 * _GAP
        cells: list[RenderableType] = [words, told]
        if progress.total and room >= _SHORTEST_BAR:
            cells.insert(1, Bar(progress.total, progress.done, width=min(room, 30)))
        return _in_line(cells)

    def _numbers(self) -> Text:
        progress, usage = self._progress, self._progress.usage
        tokens = usage.input_tokens + usage.output_tokens
        spent = f"  dollars {dollars(usage)}" if usage.dollars else ""
        return Text(
            f"calls {usage.calls:,} ({self._calls_per_second():,.0f}/s)  tokens {tokens:,}{spent}  "
            f"turns {progress.turns:,}",
            no_wrap=True,
            overflow="ellipsis",
        )

    def _errors(self, most: int) -> list[Text]:
        common = self._progress.errors.most_common(most)
        return [
            Text.assemble((f"{count:,} × ", "yellow"), _shown(kind), no_wrap=True, overflow="ellipsis")
            for kind, count in common
        ]

    def _calls_per_second(self) -> float:
        now, calls = time.monotonic(), self._progress.usage.calls
        self._calls.append((now, calls))
        while len(self._calls) > 2 and self._calls[0][0] < now - _RATE_SECONDS:
            self._calls.popleft()
        then, before = self._calls[0]
        return (calls - before) / max(now - then, 1e-3)


def _in_line(cells: Sequence[RenderableType]) -> Table:
    line = Table.grid(padding=(0, _GAP, 0, 0))
    for _ in cells:
        line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_row(*cells)
    return line


def _left(columns: Sequence[_Column], width: int) -> int:
    return width - sum(one.width + _GAP for one in columns)


def _shown(text: str) -> Text:
    """Return an untrusted text for one line, without what changes the direction or the width of what follows."""
    line = " ".join(harmless(valid(text)).split())
    return Text("".join(one for one in line if unicodedata.category(one) != "Cf"), no_wrap=True, overflow="ellipsis")


def _short(text: Text, width: int) -> Text:
    """Leave out the middle of a name that is too long, since names often differ at their ends."""
    if text.cell_len <= width:
        return text
    tail = (width - 1) * 2 // 3
    return Text(f"{text.plain[: width - 1 - tail]}…{text.plain[-tail:]}", no_wrap=True, overflow="ellipsis")


def _of(done: int, most: int | None) -> str:
    return f"{done}/{most}" if most else str(done)


def _reward(reward: float | None) -> str:
    return "" if reward is None else f"{reward:.3f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
