"""Compaction: the trajectories of any runs, in a new run directory with few large parts."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from collab_agents._internal.addresses import Address, place_at, spelled
from collab_agents._internal.parquet import write_lines
from collab_agents._internal.parts import FOLDER, columns_of, part_name
from collab_agents._internal.secrets import mask, remember_environment
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.runs._disk import explained
from collab_agents.runs.directory import versions
from collab_agents.runs.parts import PartFormat, Parts
from collab_agents.trajectories import opener, read_lines
from collab_agents.usage import Usage

_Line = tuple[bytes, dict[str, Any]]


def compact(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    format: PartFormat = "parquet",
    megabytes: float = 256,
    private: bool = True,
) -> int:
    """Copy the trajectories of runs into a new run directory with few large parts. The runs stay as they are.

    A compaction that is interrupted leaves parts without run.json, which nothing reads as a run.

    Args:
        sources: Run directories, files of trajectories, or addresses of either. Their tasks may have the same ids; all
            trajectories are copied, in this order, each as the line that it is.
        out: The directory or address to write.
        format: The format of its parts.
        megabytes: The size of a part, in millions of bytes of JSON.
        private: Whether the files are readable by their owner only; otherwise the umask decides.

    Returns:
        The number of trajectories.

    Raises:
        RunDirectoryError: If `out` holds something already, a source holds no trajectory, or a file cannot be used.
        ConfigError: As for `Parts`, and without a source.
    """
    how = Parts(os.fspath(out), format=format, megabytes=megabytes)
    if not sources:
        raise ConfigError("no run was given to compact: name at least one")
    place = place_at(out)
    if place.files() if isinstance(place, Address) else place.exists() and any(place.iterdir()):
        raise RunDirectoryError(f"{how} holds something already: choose another directory, or delete it first")
    remember_environment()
    totals = _Totals()
    lines = totals.counting(_lines_of(sources))
    if isinstance(place, Address):
        with tempfile.TemporaryDirectory(prefix="collab-agents-compact-") as folder:
            for file in _written(lines, Path(folder), how, private):
                (place / FOLDER / file.name).upload(file)
                file.unlink()
    else:
        with explained(place):
            for made in (place, place / FOLDER):
                made.mkdir(mode=0o700 if private else 0o777, parents=True, exist_ok=True)
        for _ in _written(lines, place / FOLDER, how, private):
            pass
    run = {
        "config": {"compacted_from": [spelled(source) for source in sources]},
        "versions": versions(),
        "totals": totals.result(),
        "in_parts": {"format": format, "megabytes": megabytes},
    }
    data = mask(json.dumps(run, indent=2, ensure_ascii=False) + "\n").encode()
    if isinstance(place, Address):
        (place / "failures.jsonl").write(b"")
        (place / "run.json").write(data)
    else:
        with explained(place / "run.json"):
            _write(place / "failures.jsonl", b"", private)
            _write(place / "run.json", data, private)
    return totals.trajectories


class _Totals:
    """What the trajectories took."""

    def __init__(self) -> None:
        self.trajectories = 0
        self._turns = 0
        self._usage = Usage()

    def counting(self, lines: Iterable[tuple[bytes, dict[str, Any], Usage]]) -> Iterator[_Line]:
        for line, columns, usage in lines:
            self.trajectories += 1
            self._turns += columns["exchanges"]
            self._usage.add(usage)
            yield line, columns

    def result(self) -> dict[str, Any]:
        return {**asdict(self._usage), "turns": self._turns, "trajectories": self.trajectories, "failures": 0}


def _lines_of(sources: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[bytes, dict[str, Any], Usage]]:
    for source in sources:
        found = False
        for part, number, line in read_lines(source):
            found = True
            columns, value = columns_of(line, part.path, number)
            yield line, columns, Usage.of(value.get("usage") or {})
        if not found:
            raise RunDirectoryError(f"{spelled(source)}: there is no finished trajectory")


def _written(lines: Iterator[_Line], folder: Path, how: Parts, private: bool) -> Iterator[Path]:
    """Write part after part, and yield the file of each."""
    for number, first in enumerate(lines):
        file = folder / part_name(number)
        part = _up_to(how.megabytes * 1e6, first, lines)
        with explained(file):
            if how.format == "parquet":
                file = file.with_suffix(".parquet")
                write_lines(part, file, opener(private))
            else:
                _write(file, (line + b"\n" for line, _ in part), private)
        yield file


def _up_to(most: float, first: _Line, lines: Iterator[_Line]) -> Iterator[_Line]:
    size = len(first[0])
    yield first
    while size < most and (line := next(lines, None)) is not None:
        size += len(line[0])
        yield line


def _write(file: Path, data: bytes | Iterable[bytes], private: bool) -> None:
    """Write a file, which is there once it is whole and on the disk."""
    draft = file.with_name(file.name + ".new")
    with open(draft, "wb", opener=opener(private)) as written:
        written.writelines([data] if isinstance(data, bytes) else data)
        written.flush()
        os.fsync(written.fileno())
    draft.replace(file)
