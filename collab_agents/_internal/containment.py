"""Keeping what goes wrong in one branch inside that branch."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from typing import Any, TypeVar

from collab_agents._internal.place import task_around
from collab_agents.errors import Exited

T = TypeVar("T")

PASS_THROUGH = (KeyboardInterrupt, asyncio.CancelledError, GeneratorExit)
"""Exceptions that are about the whole program, or that ask a branch to stop."""


class Late(TimeoutError):
    """Work was not done in time. (A TimeoutError may be one that the work raised itself.)"""


_until: ContextVar[float | None] = ContextVar("collab_agents_contained_until", default=None)
"""When the tasks of a branch have to have begun, on the event loop's clock. None outside of `contained`."""


@contextmanager
def contained(seconds: float | None = None) -> Iterator[None]:
    """For the asyncio tasks that are started inside: a sys.exit() becomes `Exited`, and none begins later than this.

    asyncio ends its event loop on a SystemExit in a task, whoever awaits that task, and with it every other branch.
    Work that ignores its cancellation is left behind when its time is up, and must then begin nothing more.
    """
    loop = asyncio.get_running_loop()
    current = loop.get_task_factory()
    if not isinstance(current, _TaskFactory):
        loop.set_task_factory(_TaskFactory(current))
    around = _until.get()
    until = inf if seconds is None else loop.time() + seconds
    token = _until.set(until if around is None else min(around, until))
    try:
        yield
    finally:
        _until.reset(token)


class _TaskFactory:
    """Makes the loop's tasks as before, but for those that are made inside `contained`."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        until = _until.get()
        if until is None:
            return self._create(loop, coro, options)
        task = self._create(loop, _inside(coro, loop, until), options)
        # Of a task that is cancelled before it begins, the coroutine was never awaited, of which Python would warn.
        task.add_done_callback(lambda _: coro.close())
        return task

    def _create(self, loop: asyncio.AbstractEventLoop, coro: Any, options: dict[str, Any]) -> Any:
        if self._before is not None:
            return self._before(loop, coro, **options)
        return asyncio.Task(coro, loop=loop, **options)


async def _inside(coro: Any, loop: asyncio.AbstractEventLoop, until: float) -> Any:
    if loop.time() > until:
        raise Late("it could not begin in time")
    try:
        return await coro
    except SystemExit as error:
        raise Exited(error, task_around()) from error


async def within(seconds: float | None, work: Awaitable[T]) -> T:
    """The result of the work, if it comes within so many seconds (None waits for ever). Raises Late otherwise.

    A result that comes later is never taken. Work that ignores its cancellation is left behind.
    """
    loop = asyncio.get_running_loop()
    deadline = None if seconds is None else loop.time() + seconds
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        await abandon([task])
        raise
    if task.done() and (deadline is None or loop.time() <= deadline):
        return task.result()
    await abandon([task])
    raise Late


async def abandon(tasks: "list[asyncio.Future[Any]]", patience: float = 0.5) -> None:
    """Cancel tasks, and wait a little, in seconds, for those that clean up."""
    for task in tasks:
        task.cancel()
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
    if tasks:
        await asyncio.wait(tasks, timeout=patience)
