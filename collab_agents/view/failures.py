"""Reads the tasks of a run that failed."""

import os
from collections.abc import Iterator
from pathlib import Path

from collab_agents._internal.addresses import Address, place_at
from collab_agents._internal.parts import parsed, whole_lines
from collab_agents.errors import RunDirectoryError
from collab_agents.trajectories import Failure, read_record

Stamp = tuple[int, ...] | None
"""Another one when the file of failures has changed; None without a file."""


def stamp_of(run: str | os.PathLike[str]) -> Stamp:
    """Return the stamp of a run's failures."""
    file = _file(run)
    if isinstance(file, Address):
        size = file.size()
        return None if size is None else (size,)
    try:
        about = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size


def read_lines(run: str | os.PathLike[str]) -> Iterator[Failure | str]:
    """Yield the failures of a run, and for each damaged line what is wrong with it."""
    file = _file(run)
    with file.open("rb") as lines:
        for number, line in whole_lines(lines):
            try:
                yield read_record(Failure, parsed(line, file, number), file, number)
            except RunDirectoryError as error:
                yield str(error)


def _file(run: str | os.PathLike[str]) -> Path | Address:
    return place_at(run) / "failures.jsonl"
