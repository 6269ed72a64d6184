"""What a folder that is to be looked at holds."""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from collab_agents._internal.addresses import Address, place_at, spelled
from collab_agents.errors import CollabError, RunDirectoryError
from collab_agents.trajectories import is_run
from collab_agents.view.table import RunTable

T = TypeVar("T")


@dataclass
class Place:
    """A run, or an evaluation with its runs."""

    number: int
    path: str
    name: str
    kind: Literal["run", "evaluation"]
    runs: list["Place"] = field(default_factory=list)
    """The runs of an evaluation."""
    problem: str | None = None
    """Why its trajectories cannot be read any further."""
    _table: RunTable | None = None
    _thread: ThreadPoolExecutor | None = None

    @property
    def link(self) -> str:
        return f"/{self.number}"

    @property
    def pages(self) -> list[tuple[str, str]]:
        if self.kind == "evaluation":
            return [("Scorecard", self.link)]
        return [("Run", self.link), ("Trajectories", f"{self.link}/trajectories")]

    async def read(self, look: Callable[[RunTable], T], *, seconds: float = 0.2) -> T:
        """Read what is new of its trajectories for at most so long, and return what is asked of them."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"run {self.number}")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, look, seconds)

    def _read(self, look: Callable[[RunTable], T], seconds: float) -> T:
        if self._table is None:
            self._table = RunTable(self.path)
        try:
            self._table.refresh(seconds)
            self.problem = None
        except CollabError as error:
            self.problem = str(error)
        return look(self._table)


def places_at(paths: Iterable[str | Path]) -> list[Place]:
    """Return what the folders or files hold; the runs of an evaluation follow it.

    Raises:
        RunDirectoryError: For a folder that is neither a run nor an evaluation.
    """
    found: list[Place] = []
    for path in paths:
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
        raise RunDirectoryError(f"{path} is neither a run nor an evaluation: it has no run.json")
    return runs


def _name(path: str | Path) -> str:
    return Path(path).name or spelled(path)
