"""Files elsewhere: s3://, gs://, and whatever else PyArrow and fsspec know."""

import io
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import unquote, urlsplit

from collab_agents._internal.parquet import check_installed
from collab_agents._internal.secrets import mask, secrets_in_url
from collab_agents.errors import ConfigError, RunDirectoryError

T = TypeVar("T")

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_OBJECTS = ("s3", "gcs", "abfs")
"""Filesystems without folders."""
_BUFFER = 8 << 20
_WAITS = (1.0, 2.0)
"""Seconds before a request is made again. The filesystems repeat theirs, too."""


@dataclass(frozen=True)
class Address:
    """A file or folder at an address. It has the methods of `pathlib.Path` that are used here."""

    text: str
    """For messages, without options."""
    filesystem: Any
    path: str

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str | os.PathLike[str]) -> "Address":
        more = PurePosixPath(name).as_posix()
        return replace(self, text=f"{self.text}/{more}", path=f"{self.path}/{more}")

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.path).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    def size(self) -> int | None:
        """Return the file's bytes, or None if there is no file."""
        info = self._tried(lambda: self.filesystem.get_file_info(self.path))
        return info.size if info.is_file else None

    def exists(self) -> bool:
        return self.size() is not None

    def open(self, mode: str = "rb") -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(self.seekable(), _BUFFER))

    def seekable(self) -> Any:
        """Return the open file as PyArrow reads it."""
        return self._tried(lambda: self.filesystem.open_input_file(self.path))

    def read_text(self, encoding: str = "utf-8") -> str:
        def read() -> bytes:
            with self.filesystem.open_input_stream(self.path) as file:
                return cast(bytes, file.read())

        return self._tried(read).decode(encoding)

    def files(self) -> dict[str, int]:
        """Return the files of a folder, those in its folders too, by relative path, with their bytes."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(self.path, allow_not_found=True, recursive=True)
        found = self._tried(lambda: self.filesystem.get_file_info(selector))
        start = len(self.path.strip("/")) + 1
        return {one.path.strip("/")[start:]: one.size for one in found if one.is_file}

    def write(self, data: bytes) -> None:
        """Put the bytes in the place of the file."""
        self._tried(lambda: self._write(data))

    def upload(self, file: Path) -> None:
        """Put a local file in the place of this one."""
        from pyarrow import memory_map

        if not file.stat().st_size:
            self.write(b"")
            return

        def copy() -> None:
            with memory_map(str(file)) as source:
                self._write(source.read_buffer())  # In one piece: half of a file cannot be taken for all of it.

        self._tried(copy)
        if (size := self.size()) != file.stat().st_size:
            raise RunDirectoryError(
                f"{self} has {size} bytes, and {file} {file.stat().st_size}: resume to upload it again"
            )

    def _write(self, data: Any) -> None:
        if self.filesystem.type_name not in _OBJECTS:
            self.filesystem.create_dir(str(PurePosixPath(self.path).parent), recursive=True)
        with self.filesystem.open_output_stream(self.path) as file:
            file.write(data)

    def _tried(self, work: Callable[[], T]) -> T:
        for wait in _WAITS:
            try:
                return work()
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(wait)
        with told(self.text):
            return work()


@contextmanager
def told(address: str) -> Iterator[None]:
    """Raise a RunDirectoryError that says why the address cannot be used."""
    try:
        yield
    except OSError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunDirectoryError(mask(f"{address} cannot be used: {reason}")) from error


def address_of(path: str | os.PathLike[str]) -> str | None:
    """Return the address that this is, or None if it is a path of this machine.

    `Path("s3://a/b")` is "s3:/a/b", which is taken for the address too.
    """
    match = _ADDRESS.fullmatch(os.fspath(path))
    return f"{match[1].lower()}://{match[2]}" if match and match[1].lower() != "file" else None


def spelled(path: str | os.PathLike[str]) -> str:
    """Return a path or an address as people write it, without an address's options."""
    address = address_of(path)
    return os.fspath(path) if address is None else address.partition("?")[0].rstrip("/")


def place_at(path: str | os.PathLike[str]) -> Path | Address:
    """Return the place of this path or address.

    Raises:
        ConfigError: For an address with secrets, or that nothing installed can read.
        RunDirectoryError: If the address does not answer.
    """
    address = address_of(path)
    if address is None:
        local = _ADDRESS.fullmatch(os.fspath(path))
        return Path("/" + unquote(local[2])) if local else Path(path)
    check_address(address)
    filesystem, root = _filesystem(address)
    return Address(spelled(address), filesystem, root.rstrip("/"))


def check_address(address: str) -> None:
    """Raise ConfigError if the address holds secrets, or what reads addresses is not installed."""
    check_installed()
    user = urlsplit(address).netloc.rpartition("@")[0]
    if ":" in user or secrets_in_url(address):
        named = urlsplit(address)
        bare = f"{named.scheme}://{named.netloc.rpartition('@')[2]}{named.path}"
        raise ConfigError(f"{bare}: an address holds no secrets; set them in the environment")


def _filesystem(address: str) -> tuple[Any, str]:
    import fsspec
    import pyarrow
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    try:
        with told(spelled(address)):
            return cast(tuple[Any, str], FileSystem.from_uri(address))
    except pyarrow.ArrowInvalid as error:
        if "Unrecognized filesystem" not in str(error):
            raise ConfigError(f"{spelled(address)}: {error}") from error
    try:
        filesystem, path = fsspec.core.url_to_fs(address, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{spelled(address)}: {error}") from error
    return PyFileSystem(FSSpecHandler(filesystem)), path
