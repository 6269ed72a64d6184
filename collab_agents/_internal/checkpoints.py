"""A run's checkpoint database: opened, and closed whatever happens."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from collab_agents._internal.secrets import mask_bytes
from collab_agents._internal.stream import until_done


class _Masking(JsonPlusSerializer):
    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        kind, data = super().dumps_typed(obj)
        return kind, mask_bytes(data)


@asynccontextmanager
async def open_checkpoints(path: Path) -> AsyncIterator[AsyncSqliteSaver]:
    """A saver on the database at `path`, made if it is not there.

    It reads messages and plain values alone, and masks the keys that this process knows.
    """
    connection = aiosqlite.connect(path)
    # The thread waits for work. Left behind by an event loop that was never closed, it would keep the process alive.
    connection._thread.daemon = True
    try:
        saver = AsyncSqliteSaver(await connection, serde=_Masking(allowed_msgpack_modules=None))
        await saver.setup()
        # In WAL mode a process that is killed loses nothing with this; a power cut may lose the last step.
        await saver.conn.execute("PRAGMA synchronous=NORMAL")
        yield saver
    finally:
        if closed := connection.stop():
            await until_done(closed)
