"""Keep the failures of one branch inside that branch."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from typing import Any, TypeVar

from collab_agents._internal.place import task_around
from collab_agents._internal.reasons import reason_of
from collab_agents.errors import Exited

T = TypeVar("T")

PASS_THROUGH = (KeyboardInterrupt, asyncio.CancelledError, GeneratorExit)
"""Exceptions that concern the whole program, or that ask a branch to stop."""


class Late(TimeoutError):
    """Work was not done in time. Any other TimeoutError was raised by the work itself."""


class _Limit:
    """The time after which a branch may not start new tasks, on the event loop's clock.

    `left_behind` says whether work was abandoned, which must not start anything more. `over` says that the branch has
    ended without abandoned work. A task of it that continues, such as a worker that an app started, is not limited.
    """

    def __init__(self, until: float) -> None:
        self.until = until
        self.left_behind = False
        self.over = False


_limit: ContextVar[_Limit | None] = ContextVar("collab_agents_limit", default=None)


@contextmanager
def contained(seconds: float | None = None) -> Iterator[None]:
    """Turn sys.exit() in tasks started inside into `Exited`, and start no task after this many seconds.

    On a SystemExit in a task, asyncio would end its event loop, whoever awaits the task, and so every other branch.
    """
    loop = asyncio.get_running_loop()
    current = loop.get_task_factory()
    if not isinstance(current, _TaskFactory):
        loop.set_task_factory(_TaskFactory(current))
    around = _limit.get()
    until = inf if seconds is None else loop.time() + seconds
    limit = _Limit(until if around is None else min(around.until, until))
    token = _limit.set(limit)
    try:
        yield
    finally:
        _limit.reset(token)
        limit.over = not limit.left_behind
        if around and limit.left_behind:
            around.left_behind = True


class _TaskFactory:
    """Creates the loop's tasks as before, except those created inside `contained`."""

    def __init__(self, before: Callable[..., asyncio.Future[Any]] | None) -> None:
        self._before = before

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Future[Any]:
        limit = _limit.get()
        if limit is None or limit.over:
            return self._create(loop, coro, options)
        task = self._create(loop, _inside(coro, loop, limit), options)
        # The coroutine of a task cancelled before it begins was never awaited. Closing it avoids Python's warning.
        task.add_done_callback(lambda _: coro.close())
        return task

    def _create(self, loop: asyncio.AbstractEventLoop, coro: Any, options: dict[str, Any]) -> asyncio.Future[Any]:
        if self._before is not None:
            return self._before(loop, coro, **options)
        return asyncio.Task(coro, loop=loop, **options)


async def _inside(coro: Awaitable[T], loop: asyncio.AbstractEventLoop, limit: _Limit) -> T:
    if loop.time() > limit.until and not limit.over:
        raise Late("it could not begin in time")
    try:
        return await coro
    except SystemExit as error:
        raise Exited(reason_of(error), task_around()) from error
    except GeneratorExit as error:
        if error.__traceback__ and error.__traceback__.tb_next:  # Raised inside, not thrown in to close it.
            raise RuntimeError("it raised GeneratorExit") from error
        raise


async def within(seconds: float | None, work: Awaitable[T]) -> T:
    """Return the work's result if it is done within this many seconds (None waits forever), else raise Late.

    A later result is ignored. Work that ignores its cancellation is abandoned.
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
    """Cancel tasks, and wait up to `patience` seconds for those that clean up."""
    for task in tasks:
        task.cancel()
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=patience)
        if pending and (limit := _limit.get()):
            limit.left_behind = True
