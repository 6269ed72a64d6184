"""How a run keeps its finished trajectories: in one file, or in parts."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from pydantic import BaseModel

from collab_agents._internal.addresses import address_of, check_address, spelled
from collab_agents._internal.parquet import check_installed
from collab_agents._internal.parts import FOLDER, Part, number_of, part_files, part_name, parts_of
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.runs._closing import Closing
from collab_agents.runs.elsewhere import Elsewhere
from collab_agents.trajectories import JsonlStore

PartFormat = Literal["jsonl", "parquet"]


@dataclass(frozen=True)
class Parts(os.PathLike[str]):
    """A run directory whose trajectories are kept in parts, for `out` of `generate_trajectories` and others.

    Trajectories are appended to an open part, a JSONL file. It is closed when it is full and when the run ends. A run
    that has parts goes on in parts however it is resumed.

    Args:
        path: The run directory, or its address, such as s3://bucket/run.
        format: What closed parts become. Parquet (the extra `data`) takes a fraction of the space, and has columns to
            filter by.
        megabytes: The size at which a part is closed, in millions of bytes of JSON.
        folder: For a run at an address, the working folder on this machine; by default one in the user's cache.

    Raises:
        ConfigError: For an unknown format, a size of 0 or less, or an address with secrets, and if the extra is not
            installed.

    Example:
        generate_trajectories(tasks, out=Parts("runs/x", format="parquet"), user=user, assistant=assistant, ...)
    """

    path: str | Path
    format: PartFormat = "jsonl"
    megabytes: float = 64
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        if self.format not in get_args(PartFormat):
            raise ConfigError(f"format must be jsonl or parquet, got {self.format!r}")
        if not self.megabytes > 0:
            raise ConfigError(f"megabytes must be more than 0, got {self.megabytes}")
        if self.format == "parquet":
            check_installed()
        if address := address_of(self.path):
            check_address(address)

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return spelled(self.path)


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

    def parts(self) -> list[Part]:
        """Return what is there."""
        ...

    def append(self, record: BaseModel | str, *, sync: bool) -> Part:
        """Append a trajectory, or its line, and return the file as it is since. See `JsonlStore.append`."""
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
        return self.parts()

    def begin(self) -> None: ...

    def parts(self) -> list[Part]:
        return parts_of(self._run)

    def append(self, record: BaseModel | str, *, sync: bool) -> Part:
        return Part(self.path, self._file.append(record, sync=sync))

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None: ...


class PartFiles:
    """Keeps trajectories in parts."""

    def __init__(self, run: Path, parts: Parts, *, private: bool, elsewhere: Elsewhere | None = None) -> None:
        self._run = run
        self._elsewhere = elsewhere
        self._most = parts.megabytes * 1e6
        self._private = private
        self._closing = Closing(parquet=parts.format == "parquet", private=private, elsewhere=elsewhere)
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
        if self._elsewhere:
            self._elsewhere.forget_uploaded()
            files = part_files(self._run)
        if files and files[-1].suffix == ".jsonl":
            JsonlStore(files[-1], private=self._private).open()
        there = self.parts()
        self._number = self._next_number(there)
        self._size = self.path.stat().st_size if self.path.exists() else 0
        return there

    def _next_number(self, there: list[Part]) -> int:
        """Return the number of the last part if it can be gone on with, else the next one."""
        parts = [part for part in there if part.name != "trajectories"]
        if not parts:
            return 0
        last, number = parts[-1], number_of(parts[-1].path.name)
        is_open = isinstance(last.path, Path) and not last.columnar and last.size < self._most
        return number if is_open else number + 1

    def begin(self) -> None:
        self._closing.begin()
        for file in part_files(self._run):
            if file != self.path:
                self._closing.add(file)

    def parts(self) -> list[Part]:
        self._closing.settle()
        return parts_of(self._run) if self._elsewhere is None else self._elsewhere.parts()

    def append(self, record: BaseModel | str, *, sync: bool) -> Part:
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
