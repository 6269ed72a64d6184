"""Playing a run's tasks on workers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from collab_agents.errors import ConfigError
from collab_agents.runs.player import Last, Played
from collab_agents.runs.turns import Shared
from collab_agents.runs.workers.job import Item, PlayJob
from collab_agents.runs.workers.options import RayOptions
from collab_agents.runs.workers.pool import Account, Workers, open_workers
from collab_agents.tasks import Task
from collab_agents.trajectories import Trajectory


class RemotePlayer:
    """Has a run's tasks played by workers. Use `player_on`.

    Args:
        workers: The workers.
        job: The name of the run's `PlayJob` there.
    """

    def __init__(self, workers: Workers, job: str) -> None:
        self._workers = workers
        self._job = job
        self._last: Last | None = None
        self._shared: Shared | None = None

    @asynccontextmanager
    async def open(self, account: Account, last: Last, shared: Shared | None) -> AsyncIterator["RemotePlayer"]:
        """Enter what workers do in the account, let begun tasks go on, and let workers keep turns where all can."""
        self._last, self._shared = last, shared
        async with self._workers.billing(self._job, account):
            yield self

    async def play(self, task: Task) -> Played:
        """Have a task played to its end, from its last finished turn if it was begun.

        A task whose worker dies is played again by another one.
        """
        plain = task.model_dump()

        async def item() -> Item:
            return Item(plain, await self._last(task) if self._last else None, self._shared)

        line = await self._workers.run(self._job, item, f"task {task.id}")
        return Played(Trajectory.model_validate_json(line), line)


@asynccontextmanager
async def player_on(
    ray: RayOptions | Workers, max_concurrency: int | object, job: PlayJob
) -> AsyncIterator[RemotePlayer]:
    """Send a run to workers, which are started if need be, and yield what plays its tasks.

    Raises:
        ConfigError: If it cannot be sent.
        WorkersError: If no worker can be started, or can load it.
    """
    if isinstance(ray, Workers):
        yield RemotePlayer(ray, await ray.add(job))
        return
    if not isinstance(max_concurrency, int):
        raise ConfigError("max_concurrency must be a number for a run on Ray, got a semaphore")
    async with open_workers(ray, max_concurrency) as workers:
        yield RemotePlayer(workers, await workers.add(job))
