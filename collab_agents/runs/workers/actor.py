"""The Ray actor around a worker.

Ray copies this module to the workers, so that a node without this package can say so. It imports nothing of it at the
top.
"""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGE = "collab-agents"


class Actor:
    """A process in which tasks are played, several at once.

    Args:
        release: The version of this package that the driver has.
        folder: The driver's working directory. It becomes this process's, if it exists here.
        path: The driver's module search path. What exists here is searched too, after this process's own.
        share: The worker's index, the number of workers, and the seconds until calls under a rate limit may begin.
    """

    def __init__(self, release: str, folder: str | None, path: Sequence[str], share: tuple[int, int, float]) -> None:
        if folder is not None and os.path.isdir(folder):
            os.chdir(folder)
        sys.path.extend(one for one in path if one not in sys.path and os.path.exists(one))
        self._worker: Any = None
        self._problem: str | None = None
        try:
            found = version(_PACKAGE)
            if found != release:
                self._problem = f"has {_PACKAGE} {found}, and this process has {release}: install the same version"
                return
            from collab_agents.runs.workers.worker import Worker

            self._worker = Worker(*share)
        except (PackageNotFoundError, ImportError) as error:
            self._problem = f"cannot import {_PACKAGE} ({error}): install it there, with the extras that the run needs"
        except Exception as error:
            self._problem = f"cannot start a worker: {type(error).__name__}: {error}"

    async def about(self) -> dict[str, Any]:
        """Return where this worker runs, and why it cannot be used, if it cannot."""
        return {"node": socket.gethostname(), "problem": self._problem}

    async def load(self, job: str, packed: bytes) -> str | None:
        """Load a job. Returns why that is impossible, or None."""
        problem: str | None = await self._worker.load(job, packed)
        return problem

    async def play(self, job: str, item: Any) -> Any:
        """Return the outcome of an item of a job."""
        return await self._worker.play(job, item)

    async def report(self, answers: Mapping[str, str | None]) -> Any:
        """Answer those that asked whether they may go on, and return what was done since the last report."""
        return await self._worker.report(answers)
