"""What a run needs to know of its finished trajectories, beside them in a database.

It is only a cache. What it does not cover is read when a run is opened, and all of it is made again if it is missing,
damaged, or of other trajectories than those that are there.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing, suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from collab_agents._internal.covered import Covered, beginnings, hashed
from collab_agents._internal.parts import Part, parsed, turns_in
from collab_agents._internal.secrets import mask
from collab_agents._internal.text import valid
from collab_agents.errors import RunDirectoryError
from collab_agents.personas import Persona
from collab_agents.runs._disk import explained
from collab_agents.tasks import Task
from collab_agents.trajectories import Message, Trajectory, Turn
from collab_agents.usage import Usage
from collab_agents.variance import ReliabilityTally

_VERSION = 1
_REMEDY = "delete it and resume"
_GROUP = 1000
"""Trajectories that are written together."""
_GROUP_BYTES = 64_000_000
"""Or as many bytes of them. A killed process leaves no more to be read again."""

_SETUP = f"""
    PRAGMA journal_mode=WAL;
    PRAGMA synchronous=NORMAL;
    CREATE TABLE IF NOT EXISTS tasks (id BLOB PRIMARY KEY, digest BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS parts (
        name TEXT PRIMARY KEY, file TEXT NOT NULL, size INTEGER NOT NULL, lines INTEGER NOT NULL, tail BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    PRAGMA user_version={_VERSION};
"""


class Index(Set[str]):
    """The ids of a run's finished tasks, and what their trajectories spent and say of rewards.

    Args:
        path: The SQLite file, created if it does not exist.
        private: Whether it is made for its owner alone.

    Attributes:
        usage: What the trajectories took.
        turns: The number of their turns.
        tally: What they say of how reliable rewards are.
    """

    def __init__(self, path: Path, *, private: bool) -> None:
        self.path = path
        self.usage = Usage()
        self.turns = 0
        self.tally = ReliabilityTally()
        self._private = private
        self._count = 0
        self._waiting: dict[bytes, bytes] = {}
        self._waiting_bytes = 0
        self._parts: dict[str, Covered] = {}
        self._grown: dict[str, Part] = {}
        self._is_open = False
        self._is_right = True
        """Whether what is in memory agrees with the file; not after a transaction that failed."""

    def open(self, parts: Sequence[Part]) -> None:
        """Open the file, and bring it up to date with the parts.

        Raises:
            RunDirectoryError: For a line that is not a trajectory. The file is then as it was.
        """
        with explained(self.path, remedy=_REMEDY):
            try:
                self._open(parts)
            except sqlite3.OperationalError:  # From the disk.
                raise
            except (sqlite3.DatabaseError, ValueError, LookupError, TypeError, AttributeError):
                for end in ("", "-wal", "-shm"):
                    self.path.with_name(self.path.name + end).unlink(missing_ok=True)
                self._open(parts)

    def close(self) -> None:
        """Write what is left if that is possible, and close the file. It may be called again, or before `open`."""
        if self._is_open:
            self._is_open = False
            with suppress(sqlite3.Error, OSError), closing(self._database):
                self._write()

    def add(self, trajectory: Trajectory, part: Part) -> None:
        """Count a trajectory that was appended to the part, which is as long as it says since."""
        self._count_one(trajectory.turns, trajectory.messages, trajectory.usage, trajectory.task.id)
        covered = self._parts.get(part.name)
        before, lines = (covered.size, covered.lines) if covered else (0, 0)
        self._parts[part.name] = Covered(part.path.name, part.size, lines + 1, b"")
        self._grown[part.name] = part
        self._waiting[_key(trajectory.task.id)] = _packed(trajectory.task, trajectory.persona)
        self._waiting_bytes += part.size - before
        if len(self._waiting) >= _GROUP or self._waiting_bytes >= _GROUP_BYTES:
            with explained(self.path, remedy=_REMEDY):
                self._write()

    def has_same(self, task: Task, persona: Persona | None) -> bool:
        """Whether the finished task is equal to this one, and was played by this persona."""
        key = _key(task.id)
        return (self._waiting.get(key) or self._kept(key)) == _packed(task, persona)

    def __contains__(self, task_id: object) -> bool:
        if not isinstance(task_id, str):
            return False
        key = _key(task_id)
        return key in self._waiting or self._kept(key) is not None

    def __iter__(self) -> Iterator[str]:
        self._write()
        for (key,) in self._database.execute("SELECT id FROM tasks"):
            yield key.decode("utf-8", "surrogatepass")

    def __len__(self) -> int:
        return self._count + len(self._waiting)

    def _kept(self, key: bytes) -> bytes | None:
        with explained(self.path, remedy=_REMEDY):
            row = self._database.execute("SELECT digest FROM tasks WHERE id = ?", (key,)).fetchone()
        return row and row[0]

    def _open(self, parts: Sequence[Part]) -> None:
        os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600 if self._private else 0o644))
        # Opened on one thread and used on another, never on both at once.
        self._database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            # The run's lock keeps other processes away. Without locks of its own, a look-up takes a tenth of the time.
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise ValueError("written by another version")
            if not version:
                self._database.executescript(_SETUP)
            with self._transaction():
                self._load()
                self._catch_up(parts)
        except BaseException:
            self._database.close()
            raise
        self._is_open = True

    def _load(self) -> None:
        state = {name: json.loads(value) for name, value in self._database.execute("SELECT name, value FROM state")}
        rows = self._database.execute("SELECT name, file, size, lines, tail FROM parts")
        self._parts = {name: Covered(*covered) for name, *covered in rows}
        self._grown, self._waiting = {}, {}
        self._count = state.get("count", 0)
        self.turns = state.get("turns", 0)
        self.usage = Usage.of(state.get("usage", {}))
        self.tally = ReliabilityTally.load(state["tally"]) if "tally" in state else ReliabilityTally()

    def _catch_up(self, parts: Sequence[Part]) -> None:
        places = beginnings(self._parts, parts)
        if places is None:
            self._forget_all()
            places = [(part, 0, 0) for part in parts]
        for part, after, offset in places:
            self._read(part, after, offset)
        if self._grown:
            self._save()

    def _read(self, part: Part, after: int, offset: int) -> None:
        number = after
        for number, line in part.lines(after=after, offset=offset):
            value = parsed(line, part.path, number)
            offset += len(line) + 1
            try:
                task_id = value["task"]["id"]
                turns = [Turn.model_validate(turn) for turn in value.get("turns") or []]
                usage = Usage.of(value.get("usage") or {})
                self._count_one(turns, value.get("messages") or [], usage, task_id)
                self._waiting[_key(task_id)] = _packed(value["task"], value.get("persona"))
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                raise RunDirectoryError(f"{part.path}:{number}: it is not a trajectory") from error
            if len(self._waiting) >= _GROUP:
                self._save_tasks()
        self._parts[part.name] = Covered(part.path.name, part.size if part.columnar else offset, number, b"")
        self._grown[part.name] = part

    def _forget_all(self) -> None:
        for table in ("tasks", "parts", "state"):
            self._database.execute(f"DELETE FROM {table}")
        self._load()

    def _count_one(self, turns: Sequence[Turn], messages: Iterable[Message], usage: Usage, task_id: str) -> None:
        self.usage.add(usage)
        self.turns += len(turns) or turns_in(messages)
        self.tally.add(task_id, turns, usage.calls)

    def _write(self) -> None:
        if self._grown and self._is_right:
            self._is_right = False
            with self._transaction():
                self._save()
            self._is_right = True

    def _save(self) -> None:
        self._save_tasks()
        for name, part in self._grown.items():
            covered = self._parts[name]
            tail = hashed(part.tail(covered.size))
            self._parts[name] = Covered(covered.file, covered.size, covered.lines, tail)
            row = (name, covered.file, covered.size, covered.lines, tail)
            self._database.execute("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?)", row)
        state = {"count": self._count, "turns": self.turns, "usage": asdict(self.usage), "tally": self.tally.dump()}
        rows = [(name, json.dumps(value)) for name, value in state.items()]
        self._database.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", rows)
        self._grown = {}
        self._waiting_bytes = 0

    def _save_tasks(self) -> None:
        added = self._database.executemany("INSERT OR IGNORE INTO tasks VALUES (?, ?)", self._waiting.items())
        self._count += added.rowcount
        self._waiting = {}

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._database)


class _Transaction:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._database.execute("COMMIT")
        else:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")


def _key(task_id: str) -> bytes:
    return task_id.encode("utf-8", "surrogatepass")


def _packed(task: Task | Mapping[str, object], persona: Persona | Mapping[str, object] | None) -> bytes:
    return bytes.fromhex(digest(task, persona))


def digest(task: Task | Mapping[str, object], persona: Persona | Mapping[str, object] | None) -> str:
    """Return a hash of a task and its persona, to tell whether they have changed."""
    kept = [
        Task.model_validate(task).model_dump(mode="json"),
        Persona.model_validate(persona).model_dump(mode="json") if persona else None,
    ]
    text = mask(json.dumps(valid(kept), sort_keys=True))
    return sha256(text.encode()).hexdigest()
