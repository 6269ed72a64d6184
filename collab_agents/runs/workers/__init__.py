"""Worker processes on Ray, on one machine or many."""

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from collab_agents.errors import ConfigError
from collab_agents.runs.workers.options import RayOptions

if TYPE_CHECKING:
    from collab_agents.runs.workers.job import PlayJob
    from collab_agents.runs.workers.playing import RemotePlayer
    from collab_agents.runs.workers.pool import Workers

__all__ = ["RayOptions", "open_workers", "player_on"]


def open_workers(options: RayOptions, most: int) -> "AbstractAsyncContextManager[Workers]":
    """See `pool.open_workers`. Raises ConfigError if Ray is not installed."""
    try:
        from collab_agents.runs.workers import pool
    except ImportError as error:
        raise _not_installed(error) from error
    return pool.open_workers(options, most)


def player_on(
    ray: "RayOptions | Workers", max_concurrency: object, job: "PlayJob"
) -> "AbstractAsyncContextManager[RemotePlayer]":
    """See `playing.player_on`. Raises ConfigError if Ray is not installed."""
    try:
        from collab_agents.runs.workers import playing
    except ImportError as error:
        raise _not_installed(error) from error
    return playing.player_on(ray, max_concurrency, job)


def _not_installed(error: ImportError) -> ConfigError:
    return ConfigError(f"ray needs pip install 'collab-agents[ray]' ({error.name or error} is missing)")
