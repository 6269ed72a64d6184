"""An async iterator whose work runs in a separate task, so that it ends however the iterator is left.

An async generator that is left early is closed later, by any task, at the same time as the generators inside it, or
never. Here, one task advances the source and closes it, and leaving the iterator cancels that task.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from collab_agents.errors import RunDirectoryError

T = TypeVar("T")

_PATIENCE = 30.0
"""Seconds to wait for another iterator of this process to release a folder."""


class Stream(AsyncIterator[T]):
    """An async iterator over the values of `source`, which advances only while the next value is awaited.

    The source is closed when the iterator is closed (`aclose`, `async with`) or dropped, when the task that awaits its
    next value is cancelled, or when the event loop ends as in `asyncio.run`. `folder` is the folder that the source
    locks, see `make_way`.
    """

    def __init__(self, source: AsyncGenerator[T, None], folder: str | os.PathLike[str] | None = None) -> None:
        self._source = source
        self._folder = None if folder is None else _resolved(folder)
        self._work: _Work[T] | None = None
        self._over = False

    def __aiter__(self) -> "Stream[T]":
        return self

    async def __anext__(self) -> T:
        if self._over:
            raise StopAsyncIteration
        if self._work is None:
            self._work = _Work(self._source, self._folder)
        try:
            return await self._work.next()
        except BaseException:
            self._over = self._work.task.done()
            raise

    async def aclose(self) -> None:
        """Cancel the work in progress, and wait until it has ended."""
        self._over = True
        if self._work is None:
            await self._source.aclose()
        else:
            await self._work.close()

    async def __aenter__(self) -> "Stream[T]":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._work is not None:
            self._work.cancel()


class _Work(Generic[T]):
    """The task that advances a source. It does not refer to its iterator, which can therefore be dropped."""

    def __init__(self, source: AsyncGenerator[T, None], folder: Path | None) -> None:
        self.folder = folder
        self.ended: Future[None] = Future()
        self._taken_by: str | None = None
        self._raised = False
        self._asked = asyncio.Event()
        self._answer: asyncio.Future[T] | None = None
        self._loop = asyncio.get_running_loop()
        self.task = asyncio.create_task(self._run(source), name="collab-agents stream")
        self.task.add_done_callback(self._end)
        _under_way.add(self)

    async def next(self) -> T:
        if self._answer is not None:
            raise RuntimeError("another task is already waiting for this iterator's next value")
        answer = self._answer = self._loop.create_future()
        self._asked.set()
        try:
            await asyncio.wait([answer, self.task], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.close()
            raise
        finally:
            self._answer = None
        if answer.done():
            return answer.result()
        if self._taken_by:
            raise RunDirectoryError(self._taken_by)
        if not self.task.cancelled() and (error := self.task.exception()):
            self._raised = True
            raise error
        raise StopAsyncIteration

    async def close(self) -> None:
        self.cancel()
        await asyncio.wait([self.task])
        if not self._raised and not self.task.cancelled() and (error := self.task.exception()):
            raise error

    def cancel(self, reason: str | None = None) -> None:
        if self.task.done() or self._loop.is_closed():
            return
        self._taken_by = reason
        self._loop.call_soon_threadsafe(self.task.cancel)

    async def _run(self, source: AsyncGenerator[T, None]) -> None:
        async with aclosing(source):
            while await self._asked.wait():
                self._asked.clear()
                try:
                    value = await anext(source)
                except StopAsyncIteration:
                    return
                if self._answer is not None and not self._answer.done():
                    self._answer.set_result(value)

    def _end(self, task: "asyncio.Task[None]") -> None:
        _under_way.discard(self)
        self.ended.set_result(None)


_under_way: set[_Work[Any]] = set()


def _resolved(folder: str | os.PathLike[str]) -> Path:
    return Path(folder).resolve()


async def make_way(folder: str | os.PathLike[str]) -> None:
    """Close the iterators of this process that lock the folder, and wait until they have ended.

    An iterator that was left by `break` may still be referenced, or be closing.
    """
    wanted = _resolved(folder)
    for work in list(_under_way):
        if work.folder == wanted and work.task is not asyncio.current_task():
            work.cancel(f"{folder} was resumed by a later call, which closed this iterator")
            await asyncio.wait([asyncio.wrap_future(work.ended)], timeout=_PATIENCE)


async def until_done(*futures: "asyncio.Future[object]", seconds: float | None = None) -> None:
    """Wait for the futures even if this task is cancelled, so that cancelled work can end."""
    loop = asyncio.get_running_loop()
    until = None if seconds is None else loop.time() + seconds
    while waiting := [one for one in futures if not one.done()]:
        if until is not None and loop.time() >= until:
            return
        try:
            await asyncio.wait(waiting, timeout=until and until - loop.time())
        except asyncio.CancelledError:
            continue


async def each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """Yield what a sync or an async iterable yields."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
