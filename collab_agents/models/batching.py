"""Micro-batching: gather concurrent calls and handle them together on a separate thread.

Knows nothing about models or tokens. Callers may be on any event loop, or on several.
"""

import asyncio
import atexit
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

J = TypeVar("J")
R = TypeVar("R")


@dataclass
class Entry(Generic[J, R]):
    """A job that waits for a batch or is in one."""

    job: J
    result: "Future[R]" = field(default_factory=Future)
    abandoned: bool = False
    """Tells the batch that the result is no longer needed."""

    async def outcome(self) -> R:
        """Wait for the result. Cancelling this abandons the job."""
        try:
            return await asyncio.wrap_future(self.result)
        except asyncio.CancelledError:
            self.abandoned = True
            raise


class MicroBatcher(Generic[J, R]):
    """Collects entries and handles them in batches.

    Args:
        handle: Returns a result for each entry of a batch.
        max_batch: The most entries in a batch.
        max_wait: Seconds without a new entry after which a batch begins, once the previous one is done.
    """

    def __init__(self, handle: Callable[[list[Entry[J, R]]], list[R]], *, max_batch: int, max_wait: float) -> None:
        self._handle = handle
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._queue: queue.SimpleQueue[Entry[J, R] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def submit(self, job: J) -> Entry[J, R]:
        entry: Entry[J, R] = Entry(job)
        self._queue.put(entry)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="micro-batcher", daemon=True)
                self._thread.start()
                atexit.register(self.close)  # Native code in a thread that outlives the interpreter would abort it.
        return entry

    def close(self) -> None:
        """Handle all submitted entries that were not cancelled, and end the thread. `submit` starts a new one."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()
            atexit.unregister(self.close)

    def _serve(self) -> None:
        more = True
        while more:
            gathered, more = self._gather()
            # From here on, a result cannot be cancelled, only abandoned.
            entries = [entry for entry in gathered if entry.result.set_running_or_notify_cancel()]
            if not entries:
                continue
            try:
                results = self._handle(entries)
            except BaseException as error:
                for entry in entries:
                    entry.result.set_exception(error)
            else:
                for entry, result in zip(entries, results, strict=True):
                    entry.result.set_result(result)

    def _gather(self) -> tuple[list[Entry[J, R]], bool]:
        """Return the next batch, and whether there may be another."""
        entries: list[Entry[J, R]] = []
        while len(entries) < self._max_batch:
            try:
                entry = self._queue.get(timeout=self._max_wait if entries else None)
            except queue.Empty:
                break
            if entry is None:
                return entries, False
            entries.append(entry)
        return entries, True
