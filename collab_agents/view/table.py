"""The trajectories and failed tasks of a run as a table that is quick to filter, sort, page and read."""

import json
import os
import sqlite3
import threading
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from itertools import count
from typing import Any, NamedTuple, Self, cast

import numpy as np

from collab_agents._internal.addresses import Address, spelled
from collab_agents._internal.covered import Covered, beginnings, hashed
from collab_agents._internal.parts import Part, turns_in
from collab_agents._internal.text import valid
from collab_agents.errors import RunDirectoryError
from collab_agents.runs.directory import failure_lines
from collab_agents.trajectories import Failure, Trajectory, parts_at, trajectory_on
from collab_agents.usage import Usage
from collab_agents.variance import Reliability, ReliabilityTally
from collab_agents.view.failures import Stamp, stamp_of
from collab_agents.view.index_file import index_path, make_tables, open_kept, open_temporary, remove
from collab_agents.view.rows import (
    FAILED,
    KEPT,
    Read,
    Row,
    Wanted,
    columns_of,
    query,
    read_failed,
    read_row,
)

__all__ = ["EVERY", "FAILED", "Pair", "Row", "RunTable", "Wanted"]

_SLICE = 0.1
"""Seconds of reading after which rows are added to the table."""
_COMMIT = 5.0
"""Seconds after which what was read is brought to the disk. A killed process leaves no more to be read again."""
_ORDERS = 8
"""How many filtered and sorted tables are kept."""
_JUDGES = 500
"""How many judges have a column."""
_PROBLEMS = 100
"""How many damaged lines are named."""
_TOGETHER = 500
"""How many rows are fetched at once."""
EVERY = Wanted()
"""All rows, in the order in which they were read."""


class Pair(NamedTuple):
    """A task in two runs."""

    task_id: str
    number: int
    other_number: int
    score: float
    other_score: float
    difference: float
    """`score` minus `other_score`."""


_Common = tuple[str, int, int, float, float]
"""A pair without its difference."""


class _StartedOver(Exception):
    """The index became empty while lines were read to be added to it."""


class _Waiting(NamedTuple):
    read: Read
    line: int
    """The number of lines before it in its part."""
    offset: int
    trajectory: Trajectory


class RunTable:
    """The trajectories of a run: a row each, found by an index, and read from the run's files one by one.

    The tasks that failed have rows too, after all trajectories.

    The index is a database in the user's cache that is kept for the next time. If another process uses it, or the
    cache cannot be written, it is a temporary one. It is made again if the run has become another one.

    All methods may be called from any thread. They wait for the disk and for each other, so a server calls them by
    `asyncio.to_thread`. One task of it calls `refresh` again and again; the rows that were read so far can be had
    meanwhile.

    Args:
        run: A run directory, its address, or a JSONL or Parquet file of trajectories.

    Raises:
        RunDirectoryError: If there is no run.
        ConfigError: For an address that cannot be read.

    Example:
        with RunTable("runs/first") as table:
            while not table.refresh():
                print(f"{table.read_bytes / table.total_bytes:.0%}")
            for row in table.rows(Wanted(text="invitation", sort="reward"), limit=10):
                print(row.number, row.task_id, row.reward)
    """

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self.run = spelled(run)
        self._source = run
        self._lock = threading.RLock()
        """Held while the database and what is in memory are used."""
        self._refreshing = threading.Lock()
        self._listed = parts_at(run)
        self._path = index_path(run)
        self._version = 0
        """Another one after each change."""
        self._committed = time.monotonic()
        self._paired: tuple[object, list[_Common]] = (None, [])
        self._known: tuple[int, Reliability] | None = None
        self._failures_stamp: Stamp
        self._failure_problems: list[str]
        self._followed: int
        """The version from which failed tasks were forgotten that are finished."""
        self._is_temporary = self._has_started_over = False
        try:
            self._open()
        except (OSError, sqlite3.Error):  # In use, or the cache cannot be written.
            self._use_temporary()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Keep what was read for the next time. The table cannot be used any more."""
        with self._refreshing, self._lock, suppress(sqlite3.Error), closing(self._database):
            self._commit()

    def _repr_html_(self) -> str:
        from collab_agents.view.notebook import table_html

        return table_html(self)

    # What was read

    @property
    def count(self) -> int:
        """The number of trajectories."""
        return self._count

    @property
    def failed(self) -> int:
        """The number of tasks that failed and are not finished since."""
        return self._failed

    @property
    def version(self) -> int:
        """Another number after each change of a row."""
        return self._version

    @property
    def judges(self) -> list[str]:
        """The judges that scored whole conversations, in the order in which they appeared."""
        return list(self._judges)

    @property
    def personas(self) -> list[str]:
        """The names of the personas, sorted."""
        with self._lock:
            return sorted(self._personas)

    @property
    def kinds(self) -> list[str]:
        """The kinds of tasks, sorted."""
        with self._lock:
            return sorted(self._kinds)

    @property
    def problems(self) -> list[str]:
        """What could not be read, each with its file and line; at most 100. Such lines have no row."""
        return [*self._problems, *self._failure_problems][:_PROBLEMS]

    @property
    def total_bytes(self) -> int:
        """The size of the run's files when it was last refreshed."""
        return sum(part.size for part in self._listed)

    @property
    def read_bytes(self) -> int:
        """How much of `total_bytes` was read."""
        with self._lock:
            return sum(min(part.size, self._bytes_read(part)) for part in self._listed)

    @property
    def usage(self) -> Usage:
        """What the trajectories took."""
        with self._lock:
            copy = Usage()
            copy.add(self._usage)
            return copy

    @property
    def turns(self) -> int:
        """The number of their turns."""
        return self._turns

    @property
    def tally(self) -> ReliabilityTally:
        """What they say of how reliable rewards are."""
        with self._lock:
            copy = ReliabilityTally()
            copy.merge(self._tally)
            return copy

    def reliability(self) -> Reliability:
        """Return how reliable the rewards are. It takes up to a second, and no time if no row was added since."""
        with self._lock:
            if self._known and self._known[0] == self._version:
                return self._known[1]
            version, tally = self._version, self.tally
        result = tally.result()
        self._known = version, result
        return result

    # Reading on

    def refresh(self, seconds: float = 1.0) -> bool:
        """Read what is new, for about so long, and return whether all was read.

        A line that cannot be read is one of the `problems`. A run that has become another one is read from its
        beginning, and its rows have other numbers.

        Raises:
            RunDirectoryError: If the run's files, or the index, cannot be used. The rows stay.
        """
        end = time.monotonic() + seconds
        if not self._refreshing.acquire(timeout=max(0, seconds)):
            return False
        try:
            return self._refresh(end)
        except (FileNotFoundError, _StartedOver):  # A part was converted since it was listed, or the index was lost.
            return False
        except OSError as error:
            raise RunDirectoryError(f"{self.run} cannot be read: {error}") from error
        except sqlite3.Error as error:
            if self._is_temporary:
                raise self._lost(error) from error
            self._lost(error)  # For example, the cache's disk is full.
            return False
        finally:
            self._refreshing.release()

    def _refresh(self, end: float) -> bool:
        parts = parts_at(self._source)
        with self._lock:
            self._has_started_over = False
            places = beginnings(self._covered, parts)
            if places is None:
                self._forget_all()
                places = [(part, 0, 0) for part in parts]
            self._listed = parts
        for part, after, offset in places:
            if not self._read_part(part, after, offset, end):
                return False
        self._follow_failures()
        with self._lock:
            self._commit_in_time()
        return True

    def _follow_failures(self) -> None:
        """Read the failures again if their file has changed, and forget those of tasks that are finished since."""
        stamp = stamp_of(self._source)
        changed = stamp != self._failures_stamp
        found = list(failure_lines(self._source)) if changed and stamp else []
        with self._lock:
            if self._has_started_over:
                raise _StartedOver
            if changed:
                self._failure_problems = [str(one) for one in found if isinstance(one, RunDirectoryError)]
                self._replace_failures({valid(one.task.id): one for one in found if isinstance(one, Failure)})
                self._failures_stamp = stamp
            elif self._failed and self._version != self._followed:
                self._forget_finished()
            self._followed = self._version

    def _replace_failures(self, failures: Mapping[str, Failure]) -> None:
        """Put rows in the place of all failed tasks'. A task that failed before keeps its number."""
        if not failures and not self._failed:
            return
        self._begin()
        database, known = self._database, ("SELECT task_id, number FROM rows WHERE number >= ?", (FAILED,))
        numbers: dict[str, int] = dict(database.execute(*known).fetchall())
        following = count(max(numbers.values(), default=FAILED - 1) + 1)
        database.execute("DELETE FROM rows WHERE number >= ?", (FAILED,))
        database.execute("DELETE FROM texts WHERE number >= ?", (FAILED,))
        read = [read_failed(failure) for failure in failures.values()]
        self._write([(numbers.get(one.row[0]) or next(following), one, "", 0, 0) for one in read])
        self._forget_finished()

    def _forget_finished(self) -> None:
        """Delete the rows of failed tasks that have a trajectory."""
        self._begin()
        database = self._database
        done = "SELECT 1 FROM rows AS done WHERE done.task_id = rows.task_id AND done.number < ?"
        database.execute(f"DELETE FROM rows WHERE number >= ? AND EXISTS ({done})", (FAILED, FAILED))
        there = "SELECT number FROM rows WHERE number >= ?"
        database.execute(f"DELETE FROM texts WHERE number >= ? AND number NOT IN ({there})", (FAILED, FAILED))
        self._failed = _count_failed(database)
        self._version += 1
        self._orders.clear()

    def _read_part(self, part: Part, after: int, offset: int, end: float) -> bool:
        """Read lines until the end of the part or of the time, and return whether it is the part's."""
        waiting: list[_Waiting | str] = []
        number, since = after, time.monotonic()
        try:
            rows = part.count() if part.columnar else 0
            with closing(cast("Any", part.lines(after=after, offset=offset))) as lines:
                for number, line in lines:
                    waiting.append(_waiting(part, number, line, offset))
                    offset += len(line) + 1
                    now = time.monotonic()
                    if now < min(since + _SLICE, end):
                        continue
                    whole = not part.columnar or number >= rows
                    self._add(part, waiting, Covered(part.path.name, offset, number, b"", whole))
                    self._shares[part.name] = number / rows if rows else 1.0
                    if now >= end:
                        return False
                    waiting, since = [], now
        except FileNotFoundError:
            raise
        except (RunDirectoryError, OSError, ValueError) as error:
            if not part.columnar or isinstance(part.path, Address):
                raise
            waiting.append(" ".join(str(error).split()))  # The file is damaged. Others may not be.
        self._add(part, waiting, Covered(part.path.name, offset, number, b""))
        return True

    def _add(self, part: Part, waiting: Sequence[_Waiting | str], covered: Covered) -> None:
        """Add rows, and the damaged lines among them, which cover so much of the part."""
        size = part.size if part.columnar else covered.size
        with self._lock:
            if self._has_started_over:
                raise _StartedOver
            self._begin()
            self._covered[part.name] = replace(covered, size=size, tail=hashed(part.tail(size)))
            if waiting:
                self._version += 1
                self._orders.clear()
                self._problems += [one for one in waiting if isinstance(one, str)][: _PROBLEMS - len(self._problems)]
                self._insert(part.name, [one for one in waiting if not isinstance(one, str)])
            self._commit_in_time()

    def _insert(self, part: str, waiting: Sequence[_Waiting]) -> None:
        for one in waiting:
            for judge in one.read.scores:
                self._know(judge)
        self._write(
            [(number, one.read, part, one.line, one.offset) for number, one in enumerate(waiting, self._count + 1)]
        )
        self._count += len(waiting)
        for one in waiting:
            trajectory = one.trajectory
            self._usage.add(trajectory.usage)
            self._turns += len(trajectory.turns) or turns_in(trajectory.messages)
            self._tally.add(trajectory.task.id, trajectory.turns, trajectory.usage.calls)

    def _write(self, entries: Sequence[tuple[int, Read, str, int, int]]) -> None:
        """Write rows: each with its number, and where its line is."""
        judges = list(self._judges)
        rows, texts = [], []
        for number, read, *where in entries:
            rows.append((number, *read.row, *where, *map(read.scores.get, judges)))
            texts.append((number, read.goal, read.said, read.reason))
            _, kind, persona, *_ = read.row
            self._kinds.add(kind)
            if persona is not None:
                self._personas.add(persona)
        columns = [*KEPT, "part", "line", "offset", *self._judges.values()]
        places = ", ".join("?" * len(columns))
        self._database.executemany(f"INSERT INTO rows ({', '.join(columns)}) VALUES ({places})", rows)
        self._database.executemany("INSERT INTO texts VALUES (?, ?, ?, ?)", texts)

    def _know(self, judge: str) -> None:
        if judge not in self._judges and len(self._judges) < _JUDGES:
            number = len(self._judges)
            self._database.execute("INSERT INTO judges VALUES (?, ?)", (number, judge))
            self._judges[judge] = f"score_{number}"
            self._database.execute(f"ALTER TABLE rows ADD COLUMN {self._judges[judge]} REAL")

    def _bytes_read(self, part: Part) -> int:
        known = self._covered.get(part.name)
        if known is None:
            return 0
        return known.size if known.whole else int(known.size * self._shares.get(part.name, 0))

    # Asking

    def matching(self, wanted: Wanted = EVERY) -> int:
        """Return how many rows are wanted."""
        return len(self._order(wanted))

    def rows(self, wanted: Wanted = EVERY, offset: int = 0, limit: int = 50) -> list[Row]:
        """Return so many of the wanted rows, after so many others."""
        start = max(0, offset)
        with self._using():
            return self._rows(self._order(wanted)[start : start + max(0, limit)])

    def row(self, number: int) -> Row:
        """Return the row with this number. Raises LookupError if there is none."""
        with self._using():
            if not self._has(number):
                raise LookupError(f"{self.run} has no row {number}")
            return self._rows([number])[0]

    def _rows(self, numbers: Sequence[int]) -> list[Row]:
        names = [*KEPT, "goal", "reason"]
        columns = ", ".join([*names, *self._judges.values()])
        found: dict[int, Row] = {}
        for first in range(0, len(numbers), _TOGETHER):
            some = numbers[first : first + _TOGETHER]
            places = ", ".join("?" * len(some))
            statement = f"SELECT {columns} FROM rows JOIN texts USING (number) WHERE number IN ({places})"
            for values in self._database.execute(statement, list(some)):
                row, scores = values[: len(names)], values[len(names) :]
                found[row[0]] = Row._make([*row, dict(zip(self._judges, scores, strict=True))])
        return [found[number] for number in numbers]

    def _has(self, number: int) -> bool:
        statement = "SELECT 1 FROM rows WHERE number = ?"
        return -(2**63) <= number < 2**63 and self._database.execute(statement, (number,)).fetchone() is not None

    def failure(self, number: int) -> Failure:
        """Return why the task of a row failed.

        Raises:
            LookupError: If there is no such row, or its task is finished.
            RunDirectoryError: If the task has not failed any more.
        """
        if number < FAILED:
            raise LookupError(f"the row {number} of {self.run} is of a finished task")
        task_id = self.row(number).task_id
        try:
            found = [one for one in failure_lines(self._source) if isinstance(one, Failure)]
        except OSError as error:
            raise self._changed() from error
        failure = next((one for one in reversed(found) if valid(one.task.id) == task_id), None)
        if failure is None:
            raise self._changed()
        return failure

    def reasons(self) -> list[tuple[str, list[str]]]:
        """Return why tasks failed: each reason with the ids of its tasks, the most frequent first."""
        by_reason: dict[str, list[str]] = {}
        with self._using() as database:
            statement = "SELECT reason, task_id FROM rows JOIN texts USING (number) WHERE number >= ? ORDER BY number"
            for reason, task_id in database.execute(statement, (FAILED,)):
                by_reason.setdefault(reason, []).append(task_id)
        return sorted(by_reason.items(), key=lambda one: -len(one[1]))

    def trajectory(self, number: int) -> Trajectory:
        """Return the trajectory of a row.

        Raises:
            LookupError: If there is no such row.
            RunDirectoryError: If its line cannot be read, or is of another task since.
        """
        with self._using() as database:
            if not 0 < number <= self._count:
                raise LookupError(f"{self.run} has {self._count:,} trajectories, and none has the number {number}")
            statement = "SELECT part, line, offset, task_id FROM rows WHERE number = ?"
            name, line, offset, task_id = database.execute(statement, (number,)).fetchone()
        part = next((part for part in self._listed if part.name == name), None)
        if part is None:
            raise self._changed()
        try:
            with closing(cast("Any", part.lines(after=line, offset=offset))) as lines:
                _, text = next(lines, (0, b""))
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{part.path} cannot be read: {error}") from error
        trajectory = trajectory_on(text, part.path, line + 1)
        if valid(trajectory.task.id) != task_id:
            raise self._changed()
        return trajectory

    def number_of(self, task_id: str) -> int | None:
        """Return the number of a task's trajectory, or None if there is none. If there are several, it is the first."""
        with self._using() as database:
            statement = "SELECT min(number) FROM rows WHERE task_id = ? AND number < ?"
            return cast("int | None", database.execute(statement, (valid(task_id), FAILED)).fetchone()[0])

    def beside(self, number: int, wanted: Wanted = EVERY) -> tuple[int | None, int | None]:
        """Return the numbers of the previous and of the next wanted row. Both are None if this row is not wanted."""
        order = self._order(wanted)
        try:
            at = order.index(number)
        except ValueError:
            return None, None
        return order[at - 1] if at else None, order[at + 1] if at + 1 < len(order) else None

    def histogram(self, score: str = "reward", bins: int = 20) -> list[tuple[float, float, int]]:
        """Return intervals of a score, all equally wide, each with the number of rows in it; empty if none has it.

        Args:
            score: "reward" or another field that is a number, or a judge's name.
            bins: The number of intervals. If all scores are equal, there is one interval, which ends where it begins.
        """
        values = np.array([value for _, _, value in self._scored(score)])
        if not len(values):
            return []
        low, high = float(values.min()), float(values.max())
        if low == high:
            return [(low, high, len(values))]
        edges = np.linspace(low, high, bins + 1)
        counts, _ = np.histogram(values, edges)
        return [(float(edges[i]), float(edges[i + 1]), int(count)) for i, count in enumerate(counts)]

    def pairs(self, other: "RunTable", score: str = "reward", offset: int = 0, limit: int = 50) -> list[Pair]:
        """Return so many of the tasks that have the score in both runs, those with the largest differences first.

        Of a task that is in a run several times, the first counts.
        """
        start = max(0, offset)
        return [Pair._make([*one, one[3] - one[4]]) for one in self._pairs(other, score)[start : start + max(0, limit)]]

    def paired(self, other: "RunTable", score: str = "reward") -> int:
        """Return how many tasks have the score in both runs."""
        return len(self._pairs(other, score))

    def _pairs(self, other: "RunTable", score: str) -> "list[_Common]":
        # Each has its own lock, and nobody holds both.
        key = (other, other._version, self._version, score)
        if self._paired[0] != key:
            theirs = {task_id: (number, value) for task_id, number, value in reversed(other._scored(score))}
            found: list[_Common] = []
            for task_id, number, value in self._scored(score):
                if there := theirs.pop(task_id, None):
                    found.append((task_id, number, there[0], value, there[1]))
            sizes = [-abs(one[3] - one[4]) for one in found]
            self._paired = key, [found[at] for at in np.argsort(sizes, kind="stable")]
        return self._paired[1]

    def _order(self, wanted: Wanted) -> "array[int]":
        """Return the numbers of the wanted rows, in their order."""
        with self._using() as database:
            if wanted not in self._orders:
                if len(self._orders) >= _ORDERS:
                    del self._orders[next(iter(self._orders))]
                statement, values = query(wanted, self._judges)
                self._orders[wanted] = array("q", (number for (number,) in database.execute(statement, values)))
            return self._orders[wanted]

    def _scored(self, score: str) -> list[tuple[str, int, float]]:
        """Return the tasks that have the score, their numbers and its values."""
        column = columns_of(self._judges, scores=True).get(score)
        if column is None:
            return []
        with self._using() as database:
            statement = f"SELECT task_id, number, {column} FROM rows WHERE {column} IS NOT NULL ORDER BY number"
            return database.execute(statement).fetchall()

    # The database

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._database
            except sqlite3.Error as error:
                raise self._lost(error) from error

    def _lost(self, error: sqlite3.Error) -> RunDirectoryError:
        """Go on with an empty temporary database, and return the error that says so."""
        if isinstance(error, sqlite3.ProgrammingError):  # The table was closed.
            raise error
        with self._lock:
            self._database.close()
            if not self._is_temporary and not isinstance(error, sqlite3.OperationalError):
                remove(self._path)  # It is damaged.
            self._use_temporary()
            return RunDirectoryError(f"the index of {self.run} cannot be used ({error}); the run is read again")

    def _changed(self) -> RunDirectoryError:
        return RunDirectoryError(f"{self.run} has changed since it was read; refresh it")

    def _open(self) -> None:
        self._database = open_kept(self._path)
        try:
            self._load()
        except (ValueError, LookupError, TypeError, AttributeError):  # Damaged.
            self._forget_all()

    def _use_temporary(self) -> None:
        self._is_temporary = self._has_started_over = True
        self._database = open_temporary()
        self._load()

    def _forget_all(self) -> None:
        self._begin()
        make_tables(self._database)
        self._load()

    def _load(self) -> None:
        """Read what is kept in memory."""
        database = self._database
        parts = database.execute("SELECT name, file, size, lines, tail, whole FROM parts")
        self._covered = {name: Covered(*covered) for name, *covered in parts}
        self._shares: dict[str, float] = {}
        judges = database.execute("SELECT name, number FROM judges ORDER BY number")
        self._judges = {name: f"score_{number}" for name, number in judges}
        self._personas, self._kinds = (
            {value for (value,) in database.execute(f"SELECT DISTINCT {column} FROM rows") if value is not None}
            for column in ("persona", "kind")
        )
        (total,) = database.execute("SELECT count(*) FROM rows").fetchone()
        self._failed = _count_failed(database)
        self._count = total - self._failed
        self._failures_stamp = ()  # No file has it, and so the failures are read.
        self._failure_problems = []
        self._followed = -1
        state = {name: json.loads(value) for name, value in database.execute("SELECT name, value FROM state")}
        self._usage = Usage.of(state.get("usage", {}))
        self._turns: int = state.get("turns", 0)
        self._tally = ReliabilityTally.load(state["tally"]) if "tally" in state else ReliabilityTally()
        self._problems: list[str] = state.get("problems", [])
        self._orders: dict[Wanted, array[int]] = {}
        self._version += 1

    def _begin(self) -> None:
        if not self._database.in_transaction:
            self._database.execute("BEGIN IMMEDIATE")

    def _commit_in_time(self) -> None:
        if time.monotonic() - self._committed > _COMMIT:
            self._commit()

    def _commit(self) -> None:
        """Bring to the disk what was read."""
        self._committed = time.monotonic()
        if self._is_temporary or not self._database.in_transaction:
            return
        parts = [(name, one.file, one.size, one.lines, one.tail, one.whole) for name, one in self._covered.items()]
        self._database.execute("DELETE FROM parts")
        self._database.executemany("INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?)", parts)
        state = {
            "usage": asdict(self._usage),
            "turns": self._turns,
            "tally": self._tally.dump(),
            "problems": self._problems,
        }
        rows = [(name, json.dumps(value)) for name, value in state.items()]
        self._database.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", rows)
        self._database.execute("COMMIT")


def _count_failed(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT count(*) FROM rows WHERE number >= ?", (FAILED,)).fetchone()[0])


def _waiting(part: Part, number: int, line: bytes, offset: int) -> _Waiting | str:
    try:
        trajectory = trajectory_on(line, part.path, number)
    except RunDirectoryError as error:
        return str(error)
    return _Waiting(read_row(trajectory), number - 1, offset, trajectory)
