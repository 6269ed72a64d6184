"""What a folder that is to be looked at holds."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from collab_agents._internal.addresses import Address, place_at, spelled
from collab_agents.errors import RunDirectoryError
from collab_agents.trajectories import is_run
from collab_agents.variance import Reliability
from collab_agents.view.curves import is_training
from collab_agents.view.table import RunTable

_WAIT = 0.2
"""Seconds for which a page waits for what is new in a run."""

_RARELY = 20
"""How reliable rewards are is estimated again after so many times the time that the last estimate took."""


@dataclass
class Place:
    """A run, an evaluation with its runs, or a training."""

    number: int
    path: str
    name: str
    kind: Literal["run", "evaluation", "training"]
    runs: list["Place"] = field(default_factory=list)
    """The runs of an evaluation."""
    _table: RunTable | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _reading: asyncio.Task[None] | None = None
    _known: Reliability | None = None
    _knowing: asyncio.Task[None] | None = None
    _again: float = 0.0
    """When to look at how reliable rewards are again."""

    @property
    def link(self) -> str:
        return f"/{self.number}"

    @property
    def pages(self) -> list[tuple[str, str]]:
        if self.kind == "evaluation":
            return [("Scorecard", self.link)]
        if self.kind == "training":
            return [("Training", self.link)]
        return [("Run", self.link), ("Trajectories", f"{self.link}/trajectories")]

    async def table(self) -> RunTable:
        """Return a run's trajectories. What is new in the run is read on a thread, which goes on after this returns.

        Raises:
            CollabError: If they cannot be read.
        """
        async with self._opening:
            if self._table is None:
                self._table = await asyncio.to_thread(RunTable, self.path)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(_read_all(self._table))
        reading = self._reading
        if (await asyncio.wait([reading], timeout=_WAIT))[0]:
            reading.result()
        return self._table

    async def reliability(self) -> Reliability | None:
        """Return how reliable a run's rewards are, or were a while ago; None if that is not known yet.

        Of a long run it takes a second to know.
        """
        table = await self.table()
        if (self._knowing is None or self._knowing.done()) and time.monotonic() >= self._again:
            self._knowing = asyncio.create_task(self._know(table))
        knowing = self._knowing
        if knowing is not None and (await asyncio.wait([knowing], timeout=_WAIT))[0]:
            knowing.result()
        return self._known

    async def _know(self, table: RunTable) -> None:
        start = time.monotonic()
        self._known = await asyncio.to_thread(table.reliability)
        self._again = time.monotonic() + _RARELY * (time.monotonic() - start)

    async def close(self) -> None:
        """Keep the index of what was read."""
        for task in (self._reading, self._knowing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._table is not None:
            await asyncio.to_thread(self._table.close)


async def _read_all(table: RunTable) -> None:
    while not await asyncio.to_thread(table.refresh, 0.5):
        pass


def places_at(paths: Iterable[str | Path]) -> list[Place]:
    """Return what the folders or files hold; the runs of an evaluation follow it.

    Raises:
        RunDirectoryError: For a folder that is none of these.
    """
    found: list[Place] = []
    for path in paths:
        if is_training(Path(path)):
            found.append(Place(len(found), spelled(path), _name(path), "training"))
            continue
        inside = _runs_in(path)
        if inside is None:
            found.append(Place(len(found), spelled(path), _name(path), "run"))
            continue
        evaluation = Place(len(found), spelled(path), _name(path), "evaluation")
        found.append(evaluation)
        for run in inside:
            name = "/".join(run.relative_to(path).parts)
            evaluation.runs.append(Place(len(found), str(run), name, "run"))
            found.append(evaluation.runs[-1])
    return found


def _runs_in(path: str | Path) -> list[Path] | None:
    """Return the runs of an evaluation; None for a run, a file of trajectories or an address."""
    place = place_at(path)
    if isinstance(place, Address) or place.is_file() or is_run(place):
        return None
    runs = sorted(file.parent for file in place.glob("*/*/seed-*/run.json"))
    if not runs:
        raise RunDirectoryError(f"{path} is no run, evaluation or training: there is no run.json")
    return runs


def _name(path: str | Path) -> str:
    return Path(path).name or spelled(path)
