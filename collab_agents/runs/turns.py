"""The last finished turn of each unfinished task, from which a run that was broken off goes on."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol

from collab_agents._internal.databases import check_database
from collab_agents.errors import ConfigError
from collab_agents.runs.directory import RunDirectory
from collab_agents.runs.sqlite import SqliteTurns


class Shared(NamedTuple):
    """A run's turns in a PostgreSQL database, for processes on any machine; see `PostgresTurns`."""

    address: str
    run_id: str
    password: str | None


class Turns(Protocol):
    """The state of each unfinished task of a run after its last finished turn.

    Every method raises RunDirectoryError if the states cannot be read or written.
    """

    @property
    def shared(self) -> Shared | None:
        """Where other processes can keep turns of this run, or None."""
        ...

    async def keep(self, task_id: str, state: Mapping[str, object]) -> None:
        """Write a task's state in place of its earlier one. A kill after this returns does not lose it."""

    async def forget(self, task_id: str) -> None:
        """Delete a task's state."""

    async def task_ids(self) -> list[str]:
        """Return the tasks that have a state."""

    async def last(self, task_id: str) -> dict[str, Any] | None:
        """Return a task's state, or None if it has none.

        Raises:
            RunDirectoryError: If it holds anything but messages and plain values.
        """


def check_checkpoints(checkpoints: str | None, out: object) -> None:
    """Raise ConfigError if a run in `out` cannot keep its turns in the database `checkpoints`."""
    if checkpoints is None:
        return
    check_database(checkpoints)
    if out is None:
        raise ConfigError("checkpoints needs out, the run directory whose unfinished tasks it keeps")
    try:
        from collab_agents.runs import postgres
    except ImportError as error:
        raise ConfigError(
            f"checkpoints needs pip install 'collab-agents[postgres]' ({error.name or error} is missing)"
        ) from error
    postgres.check_address(checkpoints)


@asynccontextmanager
async def open_turns(run: RunDirectory, checkpoints: str | None) -> AsyncIterator[Turns]:
    """Open a run's turns: in its folder or, if `checkpoints` is an address, in that PostgreSQL database.

    Turns that an earlier attempt kept in the folder are moved to the database.
    """
    if checkpoints is None:
        async with SqliteTurns(run.checkpoints, sync=run.sync) as turns:
            yield turns
        return
    from collab_agents.runs.postgres import PostgresTurns

    async with PostgresTurns(checkpoints, run.id, sync=run.sync) as shared:
        if run.checkpoints.stat().st_size:
            async with SqliteTurns(run.checkpoints, sync=run.sync) as turns:
                await _move(turns, shared)
        yield shared


async def _move(turns: Turns, to: Turns) -> None:
    for task_id in await turns.task_ids():
        if state := await turns.last(task_id):
            await to.keep(task_id, state)
        await turns.forget(task_id)
