"""Temporary folders that last as long as the process."""

from pathlib import Path
from tempfile import TemporaryDirectory

_folders: list["TemporaryDirectory[str]"] = []


def scratch_folder() -> Path:
    """Return a new temporary folder, which is deleted when the process ends."""
    folder = TemporaryDirectory(prefix="collab-agents-")
    _folders.append(folder)
    return Path(folder.name)
