"""A run's checkpoint database, which is always closed."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiosqlite
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from collab_agents._internal.stream import until_done
from collab_agents.errors import RunDirectoryError

_PATIENCE = 30.0
"""Seconds to wait for the database's thread to write what is left."""


class _Masking(JsonPlusSerializer):
    def __init__(self, mask: Callable[[bytes], bytes]) -> None:
        super().__init__(allowed_msgpack_modules=None)
        self._mask = mask

    def dumps_typed(self, obj: object) -> tuple[str, bytes]:
        kind, data = super().dumps_typed(obj)
        return kind, self._mask(data)


async def _shrink(connection: aiosqlite.Connection) -> None:
    """Free the space that finished tasks have left in the file, if it is most of it."""
    with suppress(sqlite3.Error, ValueError):  # For example, a full disk, or a connection that was never made.
        counts = []
        for pragma in ("freelist_count", "page_count"):
            async with connection.execute(f"PRAGMA {pragma}") as cursor:
                counts += [row[0] for row in await cursor.fetchall()]
        free, all_pages = counts
        if 2 * free > all_pages:
            await connection.execute("VACUUM")


@asynccontextmanager
async def open_checkpoints(path: Path, *, mask: Callable[[bytes], bytes]) -> AsyncIterator[AsyncSqliteSaver]:
    """Open the database at `path`, created if necessary, as a saver that reads only messages and plain values.

    `mask` is applied to everything it writes, and must keep its length.
    """
    connection = aiosqlite.connect(path)
    # The thread waits for work. If its event loop is never closed, it would keep the process alive.
    connection._thread.daemon = True
    try:
        with explained(path):
            await connection
            saver = AsyncSqliteSaver(connection, serde=_Masking(mask))
            await saver.setup()
            # In WAL mode, a killed process loses nothing with this; a power cut may lose the last step.
            await saver.conn.execute("PRAGMA synchronous=NORMAL")
        yield saver
    finally:
        await until_done(asyncio.ensure_future(_shrink(connection)), seconds=_PATIENCE)
        connection.stop()
        await _until_ended(connection._thread)


async def _until_ended(thread: threading.Thread) -> None:
    """Wait for the thread, which answers every request on the event loop, before the loop may close."""
    until = time.monotonic() + _PATIENCE
    while thread.is_alive() and time.monotonic() < until:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.001)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:  # From the disk, or from another program that uses the file.
        raise RunDirectoryError(f"{path} cannot be used: {error}; fix that and resume") from error
    except sqlite3.DatabaseError as error:
        raise RunDirectoryError(
            f"{path} is not a database, or is damaged ({error}): delete it to start the unfinished tasks again"
        ) from error
