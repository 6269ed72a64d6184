"""A run at an address: a working folder on this machine, from which closed parts are uploaded."""

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from collab_agents._internal.addresses import Address, check_address, place_at, spelled
from collab_agents._internal.parts import FOLDER, Part, parts_of
from collab_agents.errors import RunDirectoryError
from collab_agents.models.cache import cache_folder

WRITER = "writer"
"""The key in run.json by which a working folder knows its run at the address."""
_SMALL = ("failures.jsonl", "run.json")


class Elsewhere:
    """A run at an address.

    Args:
        address: The address.
        folder: The working folder; by default one in the user's cache.
    """

    def __init__(self, address: str, folder: Path | None) -> None:
        check_address(address)
        self.address = address
        self.folder = folder or working_folder(address)
        self._uploaded: dict[str, tuple[int, int]] = {}
        """The times and bytes of the small files, as they are there."""

    def __str__(self) -> str:
        return spelled(self.address)

    @property
    def place(self) -> Address:
        return cast(Address, place_at(self.address))

    def run(self) -> dict[str, Any] | None:
        """Return what run.json says at the address, or None if there is no run."""
        file = self.place / "run.json"
        if not file.exists():
            if parts_of(self.place):
                raise RunDirectoryError(f"{self} has trajectories and no run.json: choose another address")
            return None
        return read_json(file)

    def check_ours(self, ours: str | None, theirs: str | None) -> None:
        """Raise RunDirectoryError if another working folder went on with the run."""
        if ours != theirs:
            raise RunDirectoryError(
                f"{self} was continued from another machine or folder: delete {self.folder} and resume; "
                "what is only there is played again"
            )

    def claim(self) -> None:
        """Say at the address that this working folder goes on with the run."""
        (self.place / "run.json").write((self.folder / "run.json").read_bytes())

    def fetch_failures(self) -> None:
        """Copy the failures to the working folder."""
        file = self.place / "failures.jsonl"
        if file.exists():
            (self.folder / "failures.jsonl").write_text(file.read_text(), encoding="utf-8")

    def parts(self) -> list[Part]:
        """Return the parts, be they here or there. One that is in both places is the one here."""
        here = {part.name: part for part in parts_of(self.folder)}
        there = {part.name: part for part in parts_of(self.place)}
        return [(there | here)[name] for name in sorted(there | here, key=_order)]

    def forget_uploaded(self) -> None:
        """Delete the parts here that are there too, since the process was killed between both."""
        there = {part.path.name: part.size for part in parts_of(self.place)}
        for part in parts_of(self.folder):
            if there.get(part.path.name) == part.size:
                cast(Path, part.path).unlink()

    def upload(self, parts: Sequence[Path]) -> None:
        """Upload the parts, then delete them here, and the small files if they have changed.

        Raises:
            RunDirectoryError: If the address does not take them, or another machine went on with the run. Nothing is
                lost: they are still here.
        """
        place = self.place
        if (theirs := place / "run.json").exists():
            ours = read_json(self.folder / "run.json")
            self.check_ours(ours.get(WRITER), read_json(theirs).get(WRITER))
        for part in parts:
            if part.exists():  # Else an earlier round has uploaded it.
                (place / FOLDER / part.name).upload(part)
                part.unlink()
        for name in _SMALL:
            file = self.folder / name
            about = file.stat()
            state = (about.st_mtime_ns, about.st_size)
            if self._uploaded.get(name) != state:
                (place / name).write(file.read_bytes())
                self._uploaded[name] = state

    def remove_folder(self) -> None:
        """Delete the working folder, of which everything is at the address."""
        shutil.rmtree(self.folder, ignore_errors=True)


def working_folder(address: str) -> Path:
    """Return where a run at an address keeps what is not uploaded yet."""
    name = re.sub(r"[^\w.-]+", "-", spelled(address).rpartition("/")[2])
    return cache_folder() / "runs" / f"{name}-{hashlib.sha256(address.encode()).hexdigest()[:16]}"


def read_json(file: Path | Address) -> dict[str, Any]:
    """Return the object in a run.json. Raises RunDirectoryError if there is none."""
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{file} is not JSON: {error}") from error
    kinds = {"id": str, "config": dict, "totals": dict}
    if not isinstance(run, dict) or not all(isinstance(run.get(key, kind()), kind) for key, kind in kinds.items()):
        raise RunDirectoryError(f"{file} was not written by a run: choose another directory")
    return run


def _order(name: str) -> tuple[bool, int, str]:
    return name != "trajectories", len(name), name
