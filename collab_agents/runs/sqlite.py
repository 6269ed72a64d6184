"""The turns of a run in a SQLite file.

What the tasks of a run hand in while one group of turns is being written is the next group: one transaction, on a
thread of its own.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from collab_agents._internal.serde import refused_types
from collab_agents._internal.stream import until_done
from collab_agents.assistants.apps.packing import mask_packed
from collab_agents.errors import RunDirectoryError
from collab_agents.runs.directory import explained

T = TypeVar("T")

_PATIENCE = 30.0
"""Seconds to wait for the thread to write what is left."""

# LangGraph's layout, in which earlier versions kept every step of a task. There is now one row a task.
_SETUP = """
    PRAGMA journal_mode=WAL;
    -- In WAL mode, a killed process loses nothing with this; a power cut may lose the last turns.
    PRAGMA synchronous=NORMAL;
    CREATE TABLE IF NOT EXISTS checkpoints (
        thread_id TEXT NOT NULL,
        checkpoint_ns TEXT NOT NULL DEFAULT '',
        checkpoint_id TEXT NOT NULL,
        parent_checkpoint_id TEXT,
        type TEXT,
        checkpoint BLOB,
        metadata BLOB,
        PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id)
    );
    DROP TABLE IF EXISTS writes;
"""

_Row = tuple[str, bytes]
"""The kind of a serialized state, and its data."""


class SqliteTurns:
    """The turns of a run in a SQLite file: an async context manager that opens and closes it.

    Args:
        path: The file, created if it does not exist.
        sync: Called on the thread before what is kept of finished tasks is deleted.

    Raises:
        RunDirectoryError: From every method, if the file cannot be read or written.
    """

    def __init__(self, path: Path, *, sync: Callable[[], None]) -> None:
        self._path = path
        self._sync = sync
        self._serde = JsonPlusSerializer(allowed_msgpack_modules=None)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="collab-agents turns")
        self._waiting: dict[str, _Row | None] = {}
        self._group: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    @property
    def shared(self) -> None:
        return None

    async def __aenter__(self) -> "SqliteTurns":
        try:
            with explained(self._path):
                self._database = await self._on_thread(self._open)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        closing: asyncio.Future[object] = asyncio.ensure_future(self._close())
        await until_done(closing, seconds=_PATIENCE)
        self._thread.shutdown(wait=closing.done())

    async def keep(self, task_id: str, state: Mapping[str, object]) -> None:
        """Write a task's state in place of its earlier one. It is in the file when this returns."""
        kind, data = self._serde.dumps_typed({"channel_values": state})
        await self._add(task_id, (kind, mask_packed(data)))

    async def forget(self, task_id: str) -> None:
        """Delete a task's state."""
        await self._add(task_id, None)

    async def task_ids(self) -> list[str]:
        """Return the tasks that have a state."""
        rows = await self._select("SELECT DISTINCT thread_id FROM checkpoints")
        return [task_id for (task_id,) in rows]

    async def last(self, task_id: str) -> dict[str, Any] | None:
        """Return a task's state, or None if it has none.

        Raises:
            RunDirectoryError: If it holds anything but messages and plain values.
        """
        rows = await self._select(
            "SELECT type, checkpoint FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = '' "
            "ORDER BY checkpoint_id DESC",
            task_id,
        )
        for row in rows:
            state = self._read(task_id, row)
            if "task" in state and not state.get("candidates"):  # Else a step within a turn, by an earlier version.
                return state
        return None

    def _read(self, task_id: str, row: _Row) -> dict[str, Any]:
        with refused_types.taken() as refused:
            checkpoint = self._serde.loads_typed(row)
        if refused:
            raise RunDirectoryError(
                f"{self._path.name}: task {task_id!r} holds a {refused[0]}, which no run writes there: the file cannot "
                "be trusted; delete it to start the unfinished tasks again"
            )
        state: dict[str, Any] = checkpoint["channel_values"]
        return state

    async def _add(self, task_id: str, row: _Row | None) -> None:
        self._waiting[task_id] = row
        if self._group is None:
            self._group = asyncio.create_task(self._write_group())
            self._group.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._group)

    async def _write_group(self) -> None:
        async with self._writing:
            group, self._waiting, self._group = self._waiting, {}, None
            with explained(self._path):
                await self._on_thread(self._write, group)

    def _write(self, group: Mapping[str, _Row | None]) -> None:
        if None in group.values():
            self._sync()
        with self._database as transaction:
            transaction.executemany("DELETE FROM checkpoints WHERE thread_id = ?", [(task_id,) for task_id in group])
            transaction.executemany(
                "INSERT INTO checkpoints (thread_id, checkpoint_id, type, checkpoint) VALUES (?, 'turn', ?, ?)",
                [(task_id, *row) for task_id, row in group.items() if row],
            )

    async def _select(self, query: str, *values: str) -> list[Any]:
        with explained(self._path):
            return await self._on_thread(lambda: self._database.execute(query, values).fetchall())

    async def _close(self) -> None:
        async with self._writing:
            await self._on_thread(self._shrink_and_close)

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path)
        try:
            database.executescript(_SETUP)
        except BaseException:
            database.close()
            raise
        return database

    def _shrink_and_close(self) -> None:
        """Close the file, after freeing the space that finished tasks have left in it, if it is most of it."""
        with suppress(sqlite3.Error):  # For example, a full disk.
            ((free,),) = self._database.execute("PRAGMA freelist_count")
            ((pages,),) = self._database.execute("PRAGMA page_count")
            if 2 * free > pages:
                self._database.execute("VACUUM")
        self._database.close()

    async def _on_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
