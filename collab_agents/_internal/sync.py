"""Running async code from sync code, to an end that waits for nothing that hangs."""

import asyncio
import queue
from collections.abc import AsyncGenerator, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from contextvars import copy_context
from typing import Any, TypeVar

from collab_agents._internal.containment import abandon

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, which would wait for threads that hang and for tasks that ignore their cancellation."""
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


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, run to its end on a thread: this one may have an event loop that is running."""
    with _on_a_thread(work) as working:
        return working.result()


def iterate_sync(values: AsyncGenerator[T, None]) -> Iterator[T]:
    """What an async generator yields, advanced on a thread. It is closed when the iterator is left."""
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
def _on_a_thread(work: Coroutine[Any, Any, T]) -> "Iterator[Future[T]]":
    """Run it on an event loop and a thread of its own. It is cancelled if it is left before it has ended."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

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
                with suppress(RuntimeError):  # It ends just now.
                    loop.call_soon_threadsafe(task.cancel)


def _create_loop() -> asyncio.AbstractEventLoop:
    loop, executor = asyncio.new_event_loop(), ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop.set_default_executor(executor)

    async def shutdown(*_: Any) -> None:  # From Python 3.12 on with a timeout.
        executor.shutdown(wait=False, cancel_futures=True)

    vars(loop)["shutdown_default_executor"] = shutdown
    return loop
