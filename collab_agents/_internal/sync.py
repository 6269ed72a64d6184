"""Run async code from sync code without waiting for threads or tasks that hang."""

import asyncio
import queue
from collections.abc import AsyncGenerator, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from contextvars import copy_context
from typing import TypeVar

from collab_agents._internal.containment import abandon

T = TypeVar("T")


def run(work: Coroutine[object, object, T]) -> T:
    """Run like `asyncio.run`, but do not wait for threads that hang and tasks that ignore their cancellation."""
    runner = asyncio.Runner(loop_factory=_create_loop)
    try:
        return runner.run(work)
    finally:
        loop = runner.get_loop()
        loop.run_until_complete(abandon(list(asyncio.all_tasks(loop))))
        if asyncio.all_tasks(loop):
            _left_behind.append(runner)
        else:
            runner.close()


_left_behind: list[asyncio.Runner] = []
"""Runners whose tasks ignored their cancellation. Destroyed, such tasks complain and run again without a loop."""


def is_work_left() -> bool:
    """Whether tasks that `run` gave up are still there."""
    return bool(_left_behind)


def run_sync(work: Coroutine[object, object, T]) -> T:
    """Run a coroutine on a separate thread, since this one may have a running event loop, and return its result."""
    with _on_a_thread(work) as working:
        return working.result()


def iterate_sync(values: AsyncGenerator[T, None]) -> Iterator[T]:
    """Yield an async generator's values, advanced on a thread. It is closed when the iterator is left."""
    handed: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()

    async def pump() -> None:
        async with aclosing(values):
            async for value in values:
                handed.put((value,))

    with _on_a_thread(pump()) as pumping:
        pumping.add_done_callback(lambda done: handed.put(done.exception()))
        while (item := handed.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]


@contextmanager
def _on_a_thread(work: Coroutine[object, object, T]) -> "Iterator[Future[T]]":
    """Run a coroutine on a separate event loop and thread, and cancel it if the block is left before it has ended."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[object]]] = Future()

    async def working() -> T:
        task = asyncio.current_task()
        assert task is not None
        started.set_result((asyncio.get_running_loop(), task))
        return await work

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(copy_context().run, run, working())
        try:
            yield running
        finally:
            if not running.done():
                loop, task = started.result()
                with suppress(RuntimeError):  # The loop has just ended.
                    loop.call_soon_threadsafe(task.cancel)


def _create_loop() -> asyncio.AbstractEventLoop:
    loop, executor = asyncio.new_event_loop(), ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop.set_default_executor(executor)

    async def shutdown(*_: object) -> None:  # Python 3.12 and later pass a timeout.
        executor.shutdown(wait=False, cancel_futures=True)

    vars(loop)["shutdown_default_executor"] = shutdown
    return loop
