"""What a folder that is to be looked at holds."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from collab_agents._internal.addresses import Address, place_at, spelled
from collab_agents.errors import RunDirectoryError
from collab_agents.training.rounds import EVALUATIONS, IMPROVE
from collab_agents.trajectories import is_run
from collab_agents.variance import Reliability
from collab_agents.view.curves import SETTINGS, is_training
from collab_agents.view.table import RunTable

_WAIT = 0.2
"""Seconds for which a page waits for what is new in a run."""

_RARELY = 20
"""How reliable rewards are is estimated again after so many times the time that the last estimate took."""


@dataclass
class Place:
    """A run, an evaluation with its runs, a training, or a loop with all of these."""

    number: int
    path: str
    name: str
    kind: Literal["run", "evaluation", "training", "loop"]
    within: "Place | None" = None
    """The evaluation, training or loop that it is in."""
    inside: list["Place"] = field(default_factory=list)
    """The runs of an evaluation, the evaluations of a training, or what is in a loop."""
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
        if self.kind == "loop":
            return [("Rounds", self.link)]
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
    """Return what the folders or files hold; what is in evaluations, trainings and loops follows.

    Raises:
        RunDirectoryError: For a folder that is none of these.
    """
    found: list[Place] = []
    for path in paths:
        place = Place(len(found), spelled(path), _name(path), _kind_of(path))
        found.append(place)
        _look_into(place, found)
        if place.kind == "evaluation" and not place.inside:
            raise RunDirectoryError(f"{path} is no run, evaluation, training or loop: there is no run.json")
    return found


def find_new(places: list[Place]) -> None:
    """Append what has come into evaluations, trainings and loops since."""
    for place in [one for one in places if one.kind != "run" and one.within is None]:
        _look_into(place, places)


def _kind_of(path: str | Path) -> Literal["run", "evaluation", "training", "loop"]:
    place = place_at(path)
    if isinstance(place, Address) or place.is_file():
        return "run"
    if (place / IMPROVE).is_file():
        return "loop"
    if is_training(place):
        return "training"
    return "run" if is_run(place) else "evaluation"


def _look_into(place: Place, places: list[Place]) -> None:
    """Append what is in an evaluation, a training or a loop and is not known yet."""
    known = {one.path for one in place.inside}
    for path, kind in _parts_of(place):
        if str(path) not in known:
            name = "/".join(path.relative_to(place.path).parts)
            name = name if place.within is None else f"{place.name}/{name}"
            place.inside.append(Place(len(places), str(path), name, kind, within=place))
            places.append(place.inside[-1])
    for one in place.inside:
        _look_into(one, places)


def _parts_of(place: Place) -> Iterator[tuple[Path, Literal["run", "evaluation", "training"]]]:
    folder = Path(place.path)
    if place.kind == "evaluation":
        yield from ((run, "run") for run in _runs_in(folder))
    elif place.kind == "training":
        for step in sorted(folder.glob(f"{EVALUATIONS}/step-*/"), key=_step):
            if _runs_in(step):
                yield step, "evaluation"
    elif place.kind == "loop":
        for name in ("evaluation", "test"):
            if _runs_in(folder / name):
                yield folder / name, "evaluation"
        for part in sorted(folder.glob("round-*/*/"), key=_order):
            if is_run(part):
                yield part, "run"
            elif (part / SETTINGS).is_file():
                yield part, "training"


def _runs_in(folder: Path) -> list[Path]:
    return sorted(file.parent for file in folder.glob("*/*/seed-*/run.json"))


def _step(folder: Path) -> int:
    number = folder.name.removeprefix("step-")
    return int(number) if number.isdecimal() else 0


def _order(part: Path) -> tuple[int, bool, str]:
    """Order the parts of a loop by round, trajectories before trainings."""
    number = part.parent.name.removeprefix("round-")
    return (int(number) if number.isdecimal() else 0, part.name != "trajectories", part.name)


def _name(path: str | Path) -> str:
    return Path(path).name or spelled(path)
