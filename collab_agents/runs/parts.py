"""How a run keeps its finished trajectories: in one file, or in parts."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from pydantic import BaseModel

from collab_agents._internal.parquet import check_installed
from collab_agents._internal.parts import FOLDER, Part, number_of, part_files, part_name, parts_of
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.runs._closing import Closing
from collab_agents.trajectories import JsonlStore

PartFormat = Literal["jsonl", "parquet"]


@dataclass(frozen=True)
class Parts(os.PathLike[str]):
    """A run directory whose trajectories are kept in parts, for `out` of `generate_trajectories` and others.

    Trajectories are appended to an open part, a JSONL file. It is closed when it is full and when the run ends. A run
    that has parts goes on in parts however it is resumed.

    Args:
        path: The run directory.
        format: What closed parts become. Parquet (the extra `data`) takes a fraction of the space, and has columns to
            filter by.
        megabytes: The size at which a part is closed, in millions of bytes of JSON.

    Raises:
        ConfigError: For an unknown format or a size of 0 or less, and if the extra is not installed.

    Example:
        generate_trajectories(tasks, out=Parts("runs/x", format="parquet"), user=user, assistant=assistant, ...)
    """

    path: str | Path
    format: PartFormat = "jsonl"
    megabytes: float = 64

    def __post_init__(self) -> None:
        if self.format not in get_args(PartFormat):
            raise ConfigError(f"format must be jsonl or parquet, got {self.format!r}")
        if not self.megabytes > 0:
            raise ConfigError(f"megabytes must be more than 0, got {self.megabytes}")
        if self.format == "parquet":
            check_installed()

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return str(self.path)


class Store(Protocol):
    """Keeps a run's trajectories."""

    @property
    def path(self) -> Path:
        """The file that is appended to."""
        ...

    def open(self) -> list[Part]:
        """Prepare to append, and return what is there."""
        ...

    def begin(self) -> None:
        """Begin the work on parts, once nobody reads them."""
        ...

    def append(self, record: BaseModel, *, sync: bool) -> Part:
        """Append a trajectory as a line, and return the file as it is since. See `JsonlStore.append`."""
        ...

    def sync(self) -> None:
        """Bring what was appended to the disk."""
        ...

    def close(self) -> None:
        """End the work on parts."""
        ...


class OneFile:
    """Keeps trajectories in trajectories.jsonl."""

    def __init__(self, run: Path, *, private: bool) -> None:
        self.path = run / "trajectories.jsonl"
        self._run = run
        self._file = JsonlStore(self.path, private=private)

    def open(self) -> list[Part]:
        self._file.open()
        return parts_of(self._run)

    def begin(self) -> None: ...

    def append(self, record: BaseModel, *, sync: bool) -> Part:
        return Part(self.path, self._file.append(record, sync=sync))

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None: ...


class PartFiles:
    """Keeps trajectories in parts."""

    def __init__(self, run: Path, parts: Parts, *, private: bool) -> None:
        self._run = run
        self._most = parts.megabytes * 1e6
        self._private = private
        self._closing = Closing(parquet=parts.format == "parquet", private=private)
        self._number = 0
        self._size = 0

    @property
    def path(self) -> Path:
        return self._run / FOLDER / part_name(self._number)

    def open(self) -> list[Part]:
        folder = self._run / FOLDER
        folder.mkdir(mode=0o700 if self._private else 0o777, exist_ok=True)
        files = part_files(self._run)
        for file in folder.iterdir():
            if file.is_symlink():
                raise RunDirectoryError(f"{file} is a symbolic link: a run keeps its files in its own directory")
            if file.name.endswith(".new") or (file.suffix == ".jsonl" and file not in files):
                file.unlink()  # Left by a conversion that was cut short: the lines are in another file.
        self._number = number_of(files[-1].name) if files else 0
        if files and files[-1].suffix == ".jsonl":
            self._file.open()
        if files and (files[-1].suffix != ".jsonl" or files[-1].stat().st_size >= self._most):
            self._number += 1
        self._size = self.path.stat().st_size if self.path.exists() else 0
        return parts_of(self._run)

    def begin(self) -> None:
        for file in part_files(self._run):
            if file != self.path:
                self._closing.add(file)

    def append(self, record: BaseModel, *, sync: bool) -> Part:
        if self._size >= self._most:
            self.sync()
            self._closing.add(self.path)
            self._number += 1
        self._size = self._file.append(record, sync=sync)
        return Part(self.path, self._size)

    def sync(self) -> None:
        with suppress(FileNotFoundError):  # It was closed since, and is on the disk.
            file = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def close(self) -> None:
        if self._size:
            self._closing.add(self.path)
        self._closing.end()

    @property
    def _file(self) -> JsonlStore:
        return JsonlStore(self.path, private=self._private)
