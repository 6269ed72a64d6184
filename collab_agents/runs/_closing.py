"""What becomes of a run's closed parts, on a thread of its own."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from collab_agents._internal.parquet import write_lines
from collab_agents._internal.parts import flat, parsed, part_at
from collab_agents.errors import RunDirectoryError
from collab_agents.runs._disk import explained
from collab_agents.trajectories import opener


class Closing:
    """Converts closed parts one after another."""

    def __init__(self, *, parquet: bool, private: bool) -> None:
        self._parquet = parquet
        self._private = private
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="collab-agents parts")
        self._under_way: list[Future[None]] = []

    def add(self, file: Path) -> None:
        """Take on a part to which nothing is appended any more."""
        if self._parquet and file.suffix == ".jsonl":
            self._under_way.append(self._thread.submit(convert, file, private=self._private))

    def end(self) -> None:
        """Wait until all is done. Raises RunDirectoryError if something could not be; the part is then as it was."""
        self._thread.shutdown()
        for one in self._under_way:
            one.result()


def convert(file: Path, *, private: bool) -> None:
    """Put a Parquet file in the place of a JSONL file.

    When both are there, the Parquet file is whole and counts.
    """
    with explained(file):
        write_lines(_with_columns(file), file.with_suffix(".parquet"), opener(private))
        file.unlink()


def _with_columns(file: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for number, line in part_at(file).lines():
        yield line, columns_of(line, file, number)


def columns_of(line: bytes, where: object, number: int) -> dict[str, Any]:
    """Return a line's flat columns. Raises RunDirectoryError, which names the line, if it is not a trajectory."""
    try:
        return flat(parsed(line, where, number))
    except (LookupError, TypeError, AttributeError) as error:
        raise RunDirectoryError(f"{where}:{number}: it is not a trajectory") from error
