"""The turns of runs in a PostgreSQL database, written by LangGraph's saver. Processes on any machine can share it."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote, unquote

import psycopg
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from collab_agents._internal.secrets import remember_secret
from collab_agents._internal.serde import refused_types
from collab_agents._internal.stream import until_done
from collab_agents.assistants.apps.packing import mask_packed
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.runs.turns import Shared

_MOST_CONNECTIONS = 4
_TO_CONNECT = 5
"""Seconds to wait for a connection."""
_PATIENCE = 30.0
"""Seconds to wait for the server's answer."""
_DEFAULTS = {
    "connect_timeout": _TO_CONNECT,
    # A server whose machine has vanished does not close its connections.
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "application_name": "collab-agents",
    "client_encoding": "utf8",
}
_LOCK = f"SELECT pg_try_advisory_xact_lock({0x636F6C6C6162}) AS locked"
"""Take the lock of the process that makes the tables; its number spells "collab"."""
_STATE = "state"
"""The one channel. The saver writes plain values of channels unmasked, and as JSON, which refuses some characters."""

# The errors that are raised here say what psycopg would log, on stderr by default.
logging.getLogger("psycopg").addHandler(logging.NullHandler())


class _Connection(psycopg.AsyncConnection[DictRow]):
    """Bounds every wait for the server, and no other: the saver also waits for a free thread."""

    async def wait(self, *arguments: Any, **options: Any) -> Any:
        async with asyncio.timeout(_PATIENCE):
            return await super().wait(*arguments, **options)


class PostgresTurns:
    """The turns of a run in a PostgreSQL database: an async context manager that connects and disconnects.

    Several processes can keep turns of different tasks of a run at the same time. Each has at most 4 connections.

    Args:
        address: "postgresql://user@host/database". Everything that libpq reads may stand in its query.
        run_id: Distinguishes the run from others in the database.
        password: By default the one in PGPASSWORD, PGPASSFILE or ~/.pgpass.
        sync: Called on a thread before what is kept of a finished task is deleted.

    Attributes:
        password: The one that was used, once connected, for processes that do not know it.

    Raises:
        RunDirectoryError: From every method, if the database cannot be read or written.
    """

    def __init__(
        self, address: str, run_id: str, *, password: str | None = None, sync: Callable[[], None] | None = None
    ) -> None:
        self.password = password
        self._address = address
        self._run_id = run_id
        self._sync = sync
        self._serde = _Strict()
        self._free = asyncio.Semaphore(_MOST_CONNECTIONS)

    @property
    def shared(self) -> Shared:
        return Shared(self._address, self._run_id, self.password)

    async def __aenter__(self) -> "PostgresTurns":
        with self._explained():
            async with asyncio.timeout(_PATIENCE):
                await self._set_up()
                self._pool = AsyncConnectionPool(
                    kwargs=self._options(),
                    connection_class=_Connection,
                    min_size=1,
                    max_size=_MOST_CONNECTIONS,
                    timeout=_TO_CONNECT,
                    check=AsyncConnectionPool.check_connection,
                    open=False,
                )
                await self._pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        closing: asyncio.Future[object] = asyncio.ensure_future(self._pool.close())
        await until_done(closing, seconds=_PATIENCE)

    async def keep(self, task_id: str, state: Mapping[str, object]) -> None:
        """Write a task's state in place of its earlier one. It is in the database when this returns."""
        checkpoint = empty_checkpoint()
        versions: dict[str, str | int | float] = {_STATE: checkpoint["id"]}
        checkpoint["channel_values"] = {_STATE: state}
        checkpoint["channel_versions"] = versions
        async with self._saver() as (saver, connection), connection.pipeline(), connection.transaction():
            await saver.adelete_thread(self._thread_id(task_id))
            await saver.aput(self._thread(task_id), checkpoint, {}, versions)

    async def forget(self, task_id: str) -> None:
        """Delete a task's state."""
        if self._sync is not None:
            await asyncio.to_thread(self._sync)
        async with self._saver() as (saver, connection), connection.pipeline(), connection.transaction():
            await saver.adelete_thread(self._thread_id(task_id))

    async def task_ids(self) -> list[str]:
        """Return the tasks that have a state."""
        # The saver can list threads only by reading all their states.
        query = "SELECT DISTINCT thread_id FROM checkpoints WHERE starts_with(thread_id, %s)"
        prefix = self._thread_id("")
        async with self._saver() as (_, connection):
            rows = await (await connection.execute(query, [prefix])).fetchall()
        return [unquote(row["thread_id"].removeprefix(prefix), errors="surrogatepass") for row in rows]

    async def last(self, task_id: str) -> dict[str, Any] | None:
        """Return a task's state, or None if it has none.

        Raises:
            RunDirectoryError: If it holds anything but messages and plain values.
        """
        with refused_types.taken() as refused:
            async with self._saver() as (saver, _):
                found = await saver.aget_tuple(self._thread(task_id))
        if refused:
            raise RunDirectoryError(
                f"{self._address}: task {task_id!r} holds a {refused[0]}, which no run writes there: the database "
                "cannot be trusted; choose another to start the unfinished tasks again"
            )
        return found.checkpoint["channel_values"].get(_STATE) if found else None

    def _thread(self, task_id: str) -> RunnableConfig:
        return {"configurable": {"thread_id": self._thread_id(task_id), "checkpoint_ns": ""}}

    def _thread_id(self, task_id: str) -> str:
        """Return an id in ASCII, which every database can hold."""
        return f"{self._run_id}/{quote(task_id, errors='surrogatepass')}"

    @asynccontextmanager
    async def _saver(self) -> AsyncIterator[tuple[AsyncPostgresSaver, _Connection]]:
        """Lend a connection, and a saver that is on it alone and so takes part in its transaction."""
        # The pool's wait is bounded, and should be for the server only.
        async with self._free:
            with self._explained():
                try:
                    async with self._pool.connection() as connection:
                        yield AsyncPostgresSaver(connection, serde=self._serde), connection
                except PoolTimeout:
                    async with await self._connect():  # Its error has the reason, which the pool's has not.
                        raise

    async def _set_up(self) -> None:
        async with await self._connect() as connection:
            self.password = connection.info.password or None
            if self.password and not self.password.isalpha():
                remember_secret(self.password)
            while not await self._made_tables(connection):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _made_tables(self, guard: _Connection) -> bool:
        """Make the tables, unless another process is about to.

        The server makes indexes once no transaction has a snapshot from before. So nobody waits for the lock in one,
        and it is taken by a query without parameters, which leaves no snapshot.
        """
        async with guard.transaction():
            row = await (await guard.execute(_LOCK)).fetchone()
            if not row or not row["locked"]:
                return False
            async with await self._connect() as connection:
                await AsyncPostgresSaver(connection).setup()
        return True

    async def _connect(self) -> _Connection:
        return await _Connection.connect(**self._options())

    def _options(self) -> dict[str, Any]:
        password = {"password": self.password} if self.password else {}
        session = {"autocommit": True, "row_factory": dict_row, "prepare_threshold": None}  # As PgBouncer needs it.
        return _DEFAULTS | conninfo_to_dict(self._address) | password | session

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise a RunDirectoryError that says what to do if the database cannot be used."""
        try:
            yield
        except (psycopg.Error, OSError) as error:
            unknown = isinstance(error, psycopg.Error) and error.pgconn and error.pgconn.needs_password
            advice = "give the password in PGPASSWORD, PGPASSFILE or ~/.pgpass" if unknown else "fix that"
            raise RunDirectoryError(f"{self._address} cannot be used: {_reason(error)}; {advice} and resume") from error


class _Strict(JsonPlusSerializer):
    """Masks known keys in what it writes, and reads nothing but messages and plain values."""

    def __init__(self) -> None:
        super().__init__(allowed_msgpack_modules=None)

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        kind, data = super().dumps_typed(obj)
        return kind, mask_packed(data)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        if data[0] == "msgpack":
            return super().loads_typed(data)
        refused_types.add(f"{data[0]} value")
        return None


def check_address(address: str) -> None:
    """Raise ConfigError if libpq cannot read the address, which must have passed `check_database`."""
    try:
        conninfo_to_dict(address)
    except psycopg.Error as error:
        raise ConfigError(f"checkpoints: {address!r} is not an address: {_reason(error)}") from error


def _reason(error: psycopg.Error | OSError) -> str:
    """Return what went wrong in a line, without the hints and quotes that follow it."""
    if isinstance(error, TimeoutError):
        return f"no answer within {_PATIENCE:.0f} seconds"
    said = error.diag.message_primary if isinstance(error, psycopg.Error) else error.strerror
    first = (said or str(error)).strip().split("\n")[0]
    return re.sub(r"^connection (failed|is bad): |FATAL:  ", "", first)
