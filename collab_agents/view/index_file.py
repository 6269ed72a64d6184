"""The database in which a table of trajectories is kept, in the user's cache."""

import hashlib
import os
import re
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from collab_agents._internal.addresses import address_of, spelled
from collab_agents.models.cache import cache_folder

_VERSION = 2
_DAYS = 30
"""After which an index that nobody opened is deleted."""
_TABLES = {
    "rows": """
        number INTEGER PRIMARY KEY, task_id TEXT NOT NULL, kind TEXT NOT NULL, persona TEXT, reward REAL,
        exchanges INTEGER, calls INTEGER, tokens INTEGER, dollars REAL,
        stopped TEXT NOT NULL, spread REAL, faults INTEGER,
        part TEXT NOT NULL, line INTEGER NOT NULL, offset INTEGER NOT NULL
    """,
    "texts": "number INTEGER PRIMARY KEY, goal TEXT NOT NULL, said TEXT NOT NULL, reason TEXT NOT NULL",
    "judges": "number INTEGER PRIMARY KEY, name TEXT NOT NULL",
    "parts": """
        name TEXT PRIMARY KEY, file TEXT NOT NULL, size INTEGER NOT NULL, lines INTEGER NOT NULL, tail BLOB NOT NULL,
        whole INTEGER NOT NULL
    """,
    "state": "name TEXT PRIMARY KEY, value TEXT NOT NULL",
}


def index_path(run: str | os.PathLike[str]) -> Path:
    """Return where the index of a run, by path or address, is kept."""
    place = address_of(run) or str(Path(run).resolve())
    name = re.sub(r"[^\w.-]+", "-", spelled(run).rstrip("/").rpartition("/")[2])[:50]
    return cache_folder() / "view" / f"{name}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}.sqlite"


def open_kept(path: Path) -> sqlite3.Connection:
    """Open the database, for its owner alone. It is made anew if it is not one, or was written by another version.

    Raises:
        OSError: If the folder cannot be written.
        sqlite3.Error: If another process, or another table of this one, has it open.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        database = _opened(path)
    except sqlite3.OperationalError:  # In use, or from the disk.
        raise
    except sqlite3.DatabaseError:
        remove(path)
        database = _opened(path)
    _forget_old(path)
    return database


def open_temporary() -> sqlite3.Connection:
    """Open a database in a file that is deleted when it is closed."""
    database = _connected("")
    make_tables(database)
    return database


def make_tables(database: sqlite3.Connection) -> None:
    """Make the tables, empty."""
    for table, columns in _TABLES.items():
        database.execute(f"DROP TABLE IF EXISTS {table}")
        database.execute(f"CREATE TABLE {table} ({columns})")
    database.execute("CREATE INDEX rows_by_task ON rows (task_id)")
    database.execute(f"PRAGMA user_version={_VERSION}")


def remove(path: Path) -> None:
    """Delete the database and the files beside it."""
    for end in ("", "-wal", "-shm", "-journal"):
        with suppress(OSError):
            path.with_name(path.name + end).unlink(missing_ok=True)


def _opened(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    database = _connected(path)
    try:
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute("BEGIN IMMEDIATE")  # Takes the lock.
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError("written by another version")
        if not version:
            make_tables(database)
        database.execute("COMMIT")
    except BaseException:
        database.close()
        raise
    os.utime(path)
    return database


def _connected(path: Path | str) -> sqlite3.Connection:
    # Whoever uses it holds a lock.
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)


def _forget_old(path: Path) -> None:
    for other in path.parent.glob("*.sqlite"):
        with suppress(OSError):
            if other != path and other.stat().st_mtime < time.time() - _DAYS * 86400:
                remove(other)
