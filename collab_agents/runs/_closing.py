"""What becomes of a run's closed parts, on a thread of its own: they are converted, and taken to the run's address."""

import logging
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collab_agents._internal.parquet import write_lines
from collab_agents._internal.parts import columns_of, part_at
from collab_agents._internal.reasons import reason_of
from collab_agents._internal.secrets import mask
from collab_agents.errors import CollabError, RunDirectoryError
from collab_agents.runs._disk import explained
from collab_agents.runs.elsewhere import Elsewhere
from collab_agents.trajectories import opener

logger = logging.getLogger(__name__)

_EVERY = 60.0
"""Seconds after which what is new is uploaded, even if no part was closed."""


class Closing:
    """Works on closed parts, one after another.

    Args:
        parquet: Whether they become Parquet files.
        private: Whether these are for their owner alone.
        elsewhere: Where they are uploaded to, if the run is at an address.
    """

    def __init__(self, *, parquet: bool, private: bool, elsewhere: Elsewhere | None) -> None:
        self._parquet = parquet
        self._private = private
        self._elsewhere = elsewhere
        self._given: queue.Queue[Path | None] = queue.Queue()
        self._closed: list[Path] = []
        """What is to be uploaded."""
        self._kept_back: dict[Path, CollabError] = {}
        """What could not be converted, and why."""
        self._problem: CollabError | None = None
        """Why the last upload failed."""
        self._thread = threading.Thread(target=self._work, name="collab-agents parts", daemon=True)

    def begin(self) -> None:
        if self._parquet or self._elsewhere:
            self._thread.start()

    def add(self, file: Path) -> None:
        """Take on a part to which nothing is appended any more."""
        self._given.put(file)

    def settle(self) -> None:
        """Wait until what was taken on is done."""
        if self._thread.is_alive():
            self._given.join()

    def end(self) -> None:
        """Wait until all is done. Raises a CollabError if something could not be; the part is then as it was."""
        if self._thread.is_alive():
            self._given.put(None)
            self._thread.join()
        for error in (*self._kept_back.values(), self._problem):
            if error is not None:
                raise error

    def _work(self) -> None:
        self._upload()  # At the address, run.json says at once whose run it is.
        while True:
            try:
                file = self._given.get(timeout=_EVERY if self._elsewhere else None)
            except queue.Empty:
                self._upload()
                continue
            try:
                if file is not None:
                    self._close(file)
                self._upload()
            finally:
                self._given.task_done()
            if file is None:
                return

    def _close(self, file: Path) -> None:
        if self._parquet and file.suffix == ".jsonl":
            try:
                convert(file, private=self._private)
            except Exception as error:
                logger.warning("%s", error)
                self._kept_back[file] = _told(error, f"{file} cannot become a Parquet file")
                return
            file = file.with_suffix(".parquet")
        self._closed.append(file)

    def _upload(self) -> None:
        if self._elsewhere is None:
            return
        try:
            self._elsewhere.upload(self._closed)
        except Exception as error:
            if self._problem is None:
                logger.warning("%s; it is tried again", mask(str(error)))
            self._problem = _told(error, f"{self._elsewhere} cannot be used")
        else:
            self._closed = []
            self._problem = None


def _told(error: Exception, what: str) -> CollabError:
    return error if isinstance(error, CollabError) else RunDirectoryError(f"{what}: {mask(reason_of(error))}")


def convert(file: Path, *, private: bool) -> None:
    """Put a Parquet file in the place of a JSONL file.

    When both are there, the Parquet file is whole and counts.

    If that fails, the JSONL file is as it was.
    """
    with explained(file):
        write_lines(_with_columns(file), file.with_suffix(".parquet"), opener(private))
        file.unlink()


def _with_columns(file: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for number, line in part_at(file).lines():
        columns, _ = columns_of(line, file, number)
        yield line, columns
