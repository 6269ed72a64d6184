"""What is said of a run's file that cannot be used."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collab_agents.errors import RunDirectoryError


@contextmanager
def explained(path: Path, *, remedy: str = "delete it to start the unfinished tasks again") -> Iterator[None]:
    """Raise a RunDirectoryError that says what to do if a run's file at `path` cannot be read or written.

    `remedy` is what to do with a database that is damaged.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:  # From the disk, or from another program that uses the file.
        if isinstance(error, OSError):
            full, reason = error.errno == errno.ENOSPC, error.strerror
        else:
            full, reason = error.sqlite_errorcode == sqlite3.SQLITE_FULL, str(error)
        if full:
            raise RunDirectoryError(f"{path.parent}: the disk is full; free some space and resume") from error
        raise RunDirectoryError(f"{path} cannot be used: {reason}; fix that and resume") from error
    except sqlite3.DatabaseError as error:
        raise RunDirectoryError(f"{path} is not a database, or is damaged ({error}): {remedy}") from error
