"""Micro-batching: concurrent calls are gathered and handled together, on a thread of their own.

Knows nothing of models or tokens. Callers may live on any event loop, or several.
"""

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
    """A job waiting for, or in, a batch. `abandoned` tells the batch that nobody wants its result any more."""

    job: J
    result: "Future[R]" = field(default_factory=Future)
    abandoned: bool = False


class MicroBatcher(Generic[J, R]):
    """Collects entries and handles them in batches.

    `handle` is called with up to `max_batch` entries, once the previous batch is done and no entry has come for
    `max_wait` seconds. It returns a result for each entry.
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
                atexit.register(self.close)  # Native code in a thread that outlives the interpreter aborts it.
        return entry

    def close(self) -> None:
        """Handle what has been submitted and not cancelled, and end the thread. A later `submit` starts a new one."""
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
            # From here on a result cannot be cancelled, only abandoned.
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
        """The next batch, and whether there may be another."""
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
