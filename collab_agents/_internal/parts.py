"""The files that hold a run's trajectories, and their lines."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from collab_agents.errors import RunDirectoryError


@dataclass(frozen=True)
class Part:
    """A file of trajectories."""

    path: Path
    size: int
    """Bytes."""

    @property
    def name(self) -> str:
        """The same in every format."""
        return self.path.stem

    def lines(self, *, after: int = 0, offset: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield the numbers and bytes of its lines, from 1.

        Args:
            after: Begin after this many lines,
            offset: which are so many bytes.
        """
        with open(self.path, "rb") as file:
            file.seek(offset)
            yield from whole_lines(file, after)

    def tail(self, end: int) -> bytes:
        """Return the last bytes before `end`, by which to tell whether the file is still the same."""
        start = max(0, end - _TAIL)
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(end - start)


_TAIL = 4096


def part_at(path: Path) -> Part:
    return Part(path, path.stat().st_size)


def parts_of(folder: Path) -> list[Part]:
    """Return the files with a run's trajectories, in the order in which they were written."""
    file = folder / "trajectories.jsonl"
    return [part_at(file)] if file.exists() else []


def whole_lines(file: BinaryIO, after: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the numbers and bytes of an open file's lines. One without its end does not count."""
    for number, line in enumerate(file, after + 1):
        if not line.endswith(b"\n"):
            return  # Being written, or torn by a kill.
        yield number, line


def parsed(line: bytes, where: object, number: int) -> dict[str, Any]:
    """Return the object on a line. Raises RunDirectoryError, which names the line."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{where}:{number}: not a JSON line: {error}") from error
    if not isinstance(value, dict):
        raise RunDirectoryError(f"{where}:{number}: expected an object, got {str(value)[:40]!r}")
    return value
