"""Whether the tasks of a run that failed have become others."""

import os

from collab_agents._internal.addresses import Address, place_at

Stamp = tuple[int, ...] | None
"""Another one when the file of failures has changed; None without a file."""


def stamp_of(run: str | os.PathLike[str]) -> Stamp:
    """Return the stamp of a run's failures."""
    file = place_at(run) / "failures.jsonl"
    if isinstance(file, Address):
        size = file.size()
        return None if size is None else (size,)
    try:
        about = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size
