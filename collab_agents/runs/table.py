"""The table of a run under way, and its progress in a line. Does not know where they are displayed."""

import time
import unicodedata
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment, SegmentLines
from rich.style import Style

from collab_agents._internal.text import harmless, valid
from collab_agents.runs.progress import Progress, TaskProgress
from collab_agents.usage import dollars

_RATE_SECONDS = 10.0
"""Over which calls per second are counted."""
_ENOUGH = 5
"""The fewest ended tasks from which the time left is estimated."""
_MOST_ERRORS = 3
_BAR = (10, 30)
"""The shortest and the longest bar."""
_GAP = "  "
_LEAST_WORDS = 16
"""The narrowest column of words; before it gets narrower, other columns are left out."""
_DROPPED = ("time", "persona", "candidates", "reward", "run", "turn")
"""What is left out first."""
_DIM, _PLAIN, _GOOD, _WARNING, _BAD = (Style.parse(one) for one in ("dim", "none", "green", "yellow", "red"))

Line = list[Segment]


class _Column(NamedTuple):
    title: str
    width: int
    cells: Sequence[str]
    right: bool = True


class RunTable:
    """Draws a run's progress. It remembers which tasks it showed, so that a row stays in its place.

    The lines are made of segments, since rich's own tables take six times as long, on the run's event loop.
    """

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
        if progress.total is None or ended < progress.running:
            return ""
        return time_left(progress.total - progress.done, ended, self._seconds())

    def draw(self, width: int, height: int) -> SegmentLines:
        """Return the table for so many columns and lines, at least one of each."""
        width, height = max(1, width), max(1, height)
        errors = self._errors(max(0, min(_MOST_ERRORS, (height - 4) // 2)))
        footer = [_cropped(line, width) for line in (self._totals(width), self._numbers(), *errors)]
        under_way, room = self._progress.under_way, height - len(footer) - 2
        if room < 1 or not under_way:
            return SegmentLines(footer[:height], new_lines=True)
        rows = self._rows(room)
        hidden = len(under_way) - len(rows)
        more = [Segment(_fit(f"and {hidden:,} more under way", width).rstrip(), _DIM)] if hidden else []
        return SegmentLines([*self._table(rows, width), more, *footer], new_lines=True)

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

    def _table(self, rows: Sequence[TaskProgress], width: int) -> list[Line]:
        columns, words = self._columns(rows, width)
        header = [_fit(one.title, one.width, right=one.right) for one in columns] + ["last words"] * bool(words)
        lines = [[Segment(_GAP.join(header), _DIM)]]
        for number, row in enumerate(rows):
            cells = [_fit(one.cells[number], one.width, right=one.right) for one in columns]
            line = [Segment(_GAP.join(cells), _PLAIN)]
            if words and row.now.words:
                speaker = f"{row.now.speaker}: "
                said = _fit(_shown(row.now.words), words - len(speaker)).rstrip()
                line += [Segment(_GAP + speaker, _DIM), Segment(said, _PLAIN)]
            lines.append(line)
        return lines

    def _columns(self, rows: Sequence[TaskProgress], width: int) -> tuple[list[_Column], int]:
        """Return the columns that fit, and the width that is left for the last words."""
        now = time.monotonic()
        columns = [self._names("task", [row.task for row in rows], max(12, width // 5))]
        if any(row.run for row in rows):
            columns.append(self._names("run", [row.run for row in rows], width // 5))
        if any(row.persona for row in rows):
            columns.append(self._names("persona", [row.persona or "" for row in rows], 18))
        if any(row.max_turns for row in rows):
            columns.append(_Column("turn", 5, [_of(row.now.turn, row.max_turns) for row in rows]))
        if any(row.max_candidates for row in rows):
            columns.append(_Column("candidates", 10, [_of(row.now.candidates, row.max_candidates) for row in rows]))
            columns.append(_Column("reward", 7, [_reward(row.now.reward) for row in rows]))
        columns.append(_Column("time", 7, [_clock(now - row.began) for row in rows]))
        for dropped in _DROPPED:
            if _left(columns, width) >= _LEAST_WORDS:
                break
            columns = [one for one in columns if one.title != dropped]
        words = _left(columns, width)
        return columns, words if words >= _LEAST_WORDS else 0

    def _names(self, title: str, names: Sequence[str], most: int) -> _Column:
        """Return a column that is as wide as the widest name so far, and so does not change all the time."""
        cells = [_shown(name) for name in names]
        self._widths[title] = max(self._widths.get(title, len(title)), *map(cell_len, cells))
        width = min(self._widths[title], most)
        return _Column(title, width, [_short(cell, width) for cell in cells], right=False)

    def _totals(self, width: int) -> Line:
        progress = self._progress
        done = progress.finished + progress.skipped
        words = f"{done:,} of {progress.total:,} tasks" if progress.total is not None else f"{done:,} tasks"
        told = f"{progress.running:,} under way"
        if progress.skipped:
            told += f", {progress.skipped:,} from before"
        failed = f", {progress.failed:,} failed" if progress.failed else ""
        left = self.time_left()
        times = f"{_GAP}{_clock(self._seconds())}{f', {left}' if left else ''}"
        shortest, longest = _BAR
        bar = min(longest, width - len(f"{words}{_GAP}{_GAP}{told}{failed}{times}"))
        line = [Segment(words + _GAP, _PLAIN)]
        if progress.total and bar >= shortest:
            full = bar * min(progress.done, progress.total) // progress.total
            line += [Segment("━" * full, _GOOD), Segment("─" * (bar - full) + _GAP, _DIM)]
        return [*line, Segment(told, _PLAIN), Segment(failed, _BAD), Segment(times, _PLAIN)]

    def _numbers(self) -> Line:
        progress, usage = self._progress, self._progress.usage
        tokens = usage.input_tokens + usage.output_tokens
        spent = f"  dollars {dollars(usage)}" if usage.dollars else ""
        calls = f"calls {usage.calls:,} ({self._calls_per_second():,.0f}/s)"
        return [Segment(f"{calls}  tokens {tokens:,}{spent}  turns {progress.turns:,}", _PLAIN)]

    def _errors(self, most: int) -> list[Line]:
        common = self._progress.errors.most_common(most)
        return [[Segment(f"{count:,} × ", _WARNING), Segment(_shown(kind), _PLAIN)] for kind, count in common]

    def _calls_per_second(self) -> float:
        now, calls = time.monotonic(), self._progress.usage.calls
        self._calls.append((now, calls))
        while len(self._calls) > 2 and self._calls[0][0] < now - _RATE_SECONDS:
            self._calls.popleft()
        then, before = self._calls[0]
        return (calls - before) / max(now - then, 1e-3)


def time_left(left: int, ended: int, seconds: float) -> str:
    """Return in words about how long tasks take that are left, or "" if too few have ended to tell.

    Args:
        left: How many are left.
        ended: How many have ended in this attempt.
        seconds: How long it has taken so far.
    """
    if left <= 0 or ended < _ENOUGH:
        return ""
    minutes = left * seconds / ended / 60
    if minutes < 1:
        return "less than a minute left"
    hours, rest = divmod(round(minutes), 60)
    return f"about {f'{hours} h ' if hours else ''}{rest} min left"


def _left(columns: Sequence[_Column], width: int) -> int:
    return width - sum(one.width + len(_GAP) for one in columns)


@lru_cache(maxsize=1024)
def _shown(text: str) -> str:
    """Return an untrusted text for one line, without what changes the direction or the width of what follows."""
    line = " ".join(harmless(valid(text)).split())
    return line if line.isascii() else "".join(one for one in line if unicodedata.category(one) != "Cf")


def _fit(text: str, width: int, *, right: bool = False) -> str:
    """Return a text of this width."""
    missing = width - cell_len(text)
    if missing < 0:
        return set_cell_size(text, width - 1) + "…"
    return " " * missing + text if right else text + " " * missing


def _cropped(line: Line, width: int) -> Line:
    if Segment.get_line_length(line) <= width:
        return line
    return [*Segment.adjust_line_length(line, width - 1), Segment("…", _DIM)]


def _short(name: str, width: int) -> str:
    """Leave out the middle of a name that is too long, since names often differ at their ends."""
    if cell_len(name) <= width:
        return name
    tail = (width - 1) * 2 // 3
    return f"{set_cell_size(name, width - 1 - tail)}…{set_cell_size(name[::-1], tail)[::-1]}"


def _of(done: int, most: int | None) -> str:
    return f"{done}/{most}" if most else str(done)


def _reward(reward: float | None) -> str:
    return "" if reward is None else f"{reward:.3f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
