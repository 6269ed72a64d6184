"""A run's checkpoint database: opened, and closed whatever happens."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiosqlite
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from collab_agents._internal.stream import until_done
from collab_agents.errors import RunDirectoryError

_PATIENCE = 30.0
"""Seconds to wait for the database's thread, which has only to write what there is."""


class _Masking(JsonPlusSerializer):
    def __init__(self, mask: Callable[[bytes], bytes]) -> None:
        super().__init__(allowed_msgpack_modules=None)
        self._mask = mask

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        kind, data = super().dumps_typed(obj)
        return kind, self._mask(data)


async def _shrink(connection: aiosqlite.Connection) -> None:
    """Give back to the disk what finished tasks have left, if that is most of the file."""
    with suppress(sqlite3.Error, ValueError):  # Such as a full disk, or a connection that was never made.
        counts = []
        for pragma in ("freelist_count", "page_count"):
            async with connection.execute(f"PRAGMA {pragma}") as cursor:
                counts += [row[0] for row in await cursor.fetchall()]
        free, all_pages = counts
        if 2 * free > all_pages:
            await connection.execute("VACUUM")


@asynccontextmanager
async def open_checkpoints(path: Path, *, mask: Callable[[bytes], bytes]) -> AsyncIterator[AsyncSqliteSaver]:
    """A saver on the database at `path`, made if it is not there.

    It reads messages and plain values alone. mask: what is done to all that it writes, which keeps its length.
    """
    connection = aiosqlite.connect(path)
    # The thread waits for work. Left behind by an event loop that was never closed, it would keep the process alive.
    connection._thread.daemon = True
    try:
        with explained(path):
            await connection
            saver = AsyncSqliteSaver(connection, serde=_Masking(mask))
            await saver.setup()
            # In WAL mode a process that is killed loses nothing with this; a power cut may lose the last step.
            await saver.conn.execute("PRAGMA synchronous=NORMAL")
        yield saver
    finally:
        await until_done(asyncio.ensure_future(_shrink(connection)), seconds=_PATIENCE)
        connection.stop()
        await _until_ended(connection._thread)


async def _until_ended(thread: threading.Thread) -> None:
    """The thread answers every request on the event loop, so the loop must not close before it has."""
    until = time.monotonic() + _PATIENCE
    while thread.is_alive() and time.monotonic() < until:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.001)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:  # Of the disk, or of another program that uses it.
        raise RunDirectoryError(f"{path} cannot be used: {error}; mend that, and resume") from error
    except sqlite3.DatabaseError as error:
        raise RunDirectoryError(
            f"{path} is not a database, or damaged ({error}): delete it to play the unfinished tasks again"
        ) from error
