"""Folders that are made once for all processes and kept."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def cache_folder() -> Path:
    """Return this library's folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "collab-agents"


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of that name in the user's cache. If it is not there, `make` fills it first."""
    folder = cache_folder() / name
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # Processes that begin together make it once.
        if not folder.exists():
            for left in folder.parent.glob(f"{name}.draft-*"):  # By a process that was killed.
                shutil.rmtree(left)
            draft = Path(tempfile.mkdtemp(prefix=f"{name}.draft-", dir=folder.parent))
            try:
                make(draft)
                draft.chmod(0o755)
                draft.rename(folder)  # In one step, so that a killed process cannot leave half a folder.
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return folder
