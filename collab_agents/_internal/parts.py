"""The files that hold a run's trajectories, and their lines.

There is one, trajectories.jsonl, or a folder of parts: trajectories/part-00000.jsonl, or .parquet, and so on.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from collab_agents._internal import parquet
from collab_agents._internal.addresses import Address
from collab_agents.errors import RunDirectoryError

FOLDER = "trajectories"
_PART = re.compile(r"part-(\d{5,})\.(jsonl|parquet)")
_TAIL = 4096


@dataclass(frozen=True)
class Part:
    """A file of trajectories."""

    path: Path | Address
    size: int
    """Bytes."""

    @property
    def name(self) -> str:
        """The same in each format."""
        return self.path.stem

    @property
    def columnar(self) -> bool:
        return self.path.suffix == ".parquet"

    def lines(self, *, after: int = 0, offset: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield the numbers and bytes of its lines, from 1, without their ends.

        Args:
            after: Begin after this many lines,
            offset: which are so many bytes of a JSONL file.
        """
        if self.columnar:
            yield from enumerate(parquet.read_lines(self.path, after), after + 1)
            return
        try:
            file: BinaryIO = self.path.open("rb")
        except FileNotFoundError:  # It was converted since it was listed.
            assert isinstance(self.path, Path)
            yield from part_at(self.path.with_suffix(".parquet")).lines(after=after)
            return
        with file:
            file.seek(offset)
            yield from whole_lines(file, after)

    def tail(self, end: int) -> bytes:
        """Return the last bytes before `end`, by which to tell whether it is the same file; empty if it is closed."""
        if self.columnar or isinstance(self.path, Address) or not self.path.exists():  # It was converted since.
            return b""
        start = max(0, end - _TAIL)
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(end - start)

    def count(self) -> int:
        """Return the number of rows of a Parquet file."""
        return parquet.count_rows(self.path)


def part_at(path: Path) -> Part:
    return Part(path, path.stat().st_size)


def parts_of(run: Path | Address) -> list[Part]:
    """Return the files with a run's trajectories, in the order in which they were written."""
    sizes = files_in(run)
    names = ["trajectories.jsonl", *(f"{FOLDER}/{name}" for name in whole_parts(map(_name, sizes)))]
    return [Part(run / name, sizes[name]) for name in names if name in sizes]


def files_in(run: Path | Address) -> dict[str, int]:
    """Return run.json and the files with trajectories in a run's folder, by relative path, with their bytes.

    At an address, all files are returned.
    """
    if isinstance(run, Address):
        return run.files()
    while True:
        single = [file for file in (run / "run.json", run / "trajectories.jsonl") if file.is_file()]
        try:
            return {file.relative_to(run).as_posix(): file.stat().st_size for file in [*single, *part_files(run)]}
        except FileNotFoundError:  # A part was converted since it was listed.
            continue


def _name(path: str) -> str:
    return path.removeprefix(f"{FOLDER}/")


def part_files(run: Path) -> list[Path]:
    """Return a run's parts on this machine."""
    folder = run / FOLDER
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return [folder / name for name in whole_parts(names)]


def whole_parts(names: Iterable[str]) -> list[str]:
    """Return those of the names that are parts, in order. Of one in both formats, the Parquet file counts.

    It is in both if its conversion was cut short.
    """
    found: dict[int, str] = {}
    for name in sorted(names):  # A .parquet follows its .jsonl.
        if match := _PART.fullmatch(name):
            found[int(match[1])] = name
    return [found[number] for number in sorted(found)]


def number_of(name: str) -> int:
    """Return the number of a part."""
    match = _PART.fullmatch(name)
    assert match is not None
    return int(match[1])


def part_name(number: int) -> str:
    return f"part-{number:05}.jsonl"


def whole_lines(file: BinaryIO, after: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the numbers and bytes of an open file's lines. One without its end does not count."""
    for number, line in enumerate(file, after + 1):
        if not line.endswith(b"\n"):
            return  # Being written, or torn by a kill.
        yield number, line[:-1]


def parsed(line: bytes, where: object, number: int) -> dict[str, Any]:
    """Return the object on a line. Raises RunDirectoryError, which names the line."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{where}:{number}: not a JSON line: {error}") from error
    if not isinstance(value, dict):
        raise RunDirectoryError(f"{where}:{number}: expected an object, got {str(value)[:40]!r}")
    return value


def columns_of(line: bytes, where: object, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a line's flat columns, and all of it. Raises RunDirectoryError, which names the line, if it is not one."""
    value = parsed(line, where, number)
    try:
        return _flat(value), value
    except (LookupError, TypeError, AttributeError) as error:
        raise RunDirectoryError(f"{where}:{number}: it is not a trajectory") from error


def _flat(trajectory: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a trajectory people filter by.

    Raises AttributeError, TypeError or LookupError if it is none.
    """
    task, usage = trajectory["task"], trajectory.get("usage") or {}
    known = usage.get("priced", 0) == usage.get("calls", 0)
    return {
        "task_id": task["id"],
        "kind": task.get("kind"),
        "persona": (trajectory.get("persona") or {}).get("name"),
        "seed": trajectory.get("seed", 0),
        "reward": trajectory.get("reward"),
        "stopped": trajectory["stopped"],
        "exchanges": len(trajectory.get("turns") or []) or turns_in(trajectory["messages"]),
        "calls": usage.get("calls", 0),
        "input_tokens": usage.get("input_tokens", 0),
        "output_tokens": usage.get("output_tokens", 0),
        "dollars": usage.get("dollars", 0.0) if known else None,
    }


def turns_in(messages: Iterable[Mapping[str, Any]]) -> int:
    """Count the assistant's answers in a conversation without lookahead."""
    return sum(one.get("role") == "assistant" and not one.get("tool_calls") for one in messages)
