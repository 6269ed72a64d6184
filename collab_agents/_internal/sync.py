"""Running async code from sync code, to an end that waits for nothing that hangs."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
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
        if not asyncio.all_tasks(loop):
            runner.close()


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, run to its end on a thread: this one may have an event loop that is running."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(copy_context().run, run, work).result()


def _create_loop() -> asyncio.AbstractEventLoop:
    loop, executor = asyncio.new_event_loop(), ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop.set_default_executor(executor)

    async def shutdown() -> None:
        executor.shutdown(wait=False, cancel_futures=True)

    vars(loop)["shutdown_default_executor"] = shutdown
    return loop
