"""What becomes of a run's closed parts, on a thread of its own: they are converted, and taken to the run's address."""

import logging
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collab_agents._internal.parquet import write_lines
from collab_agents._internal.parts import columns_of, part_at
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
            except CollabError as error:
                logger.warning("%s", error)
                self._kept_back[file] = error
                return
            file = file.with_suffix(".parquet")
        self._closed.append(file)

    def _upload(self) -> None:
        if self._elsewhere is None:
            return
        try:
            self._elsewhere.upload(self._closed)
        except CollabError as error:
            if self._problem is None:
                logger.warning("%s; it is tried again", error)
            self._problem = error
        else:
            self._closed = []
            self._problem = None


def convert(file: Path, *, private: bool) -> None:
    """Put a Parquet file in the place of a JSONL file.

    When both are there, the Parquet file is whole and counts.

    Raises:
        RunDirectoryError: If that cannot be done. The JSONL file is then as it was.
    """
    with explained(file):
        try:
            write_lines(_with_columns(file), file.with_suffix(".parquet"), opener(private))
        except (ValueError, TypeError, OverflowError) as error:  # Of Arrow, for a value that its column cannot hold.
            raise RunDirectoryError(f"{file} cannot become a Parquet file: {error}") from error
        file.unlink()


def _with_columns(file: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for number, line in part_at(file).lines():
        columns, _ = columns_of(line, file, number)
        yield line, columns
