"""Files that are replaced whole."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def replacing(path: Path, opener: Callable[[str, int], int] | None = None) -> Iterator[TextIO]:
    """Yield a text file that takes the place of the one at `path` when it is written and on the disk.

    Whoever reads `path`, after a kill too, meets the old content or the new one.
    """
    draft = path.with_name(f"{path.name}.new")
    with open(draft, "w", encoding="utf-8", opener=opener) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
