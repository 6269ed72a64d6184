"""Keeping what goes wrong in one branch inside that branch."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from collab_agents.errors import Exited, exit_call

T = TypeVar("T")

PASS_THROUGH = (KeyboardInterrupt, asyncio.CancelledError, GeneratorExit)
"""Exceptions that are about the whole program, or that ask a branch to stop."""


class Late(TimeoutError):
    """Work was not done in time. (A TimeoutError may be one that the work raised itself.)"""


_contained: ContextVar[bool] = ContextVar("collab_agents_contained", default=False)


@contextmanager
def contained() -> Iterator[None]:
    """Turn a sys.exit() in any asyncio task that is started inside into `Exited`.

    asyncio ends its event loop on a SystemExit in a task, whoever awaits that task, and with it every other branch.
    """
    loop = asyncio.get_running_loop()
    current = loop.get_task_factory()
    if not isinstance(current, _TaskFactory):
        loop.set_task_factory(_TaskFactory(current))
    token = _contained.set(True)
    try:
        yield
    finally:
        _contained.reset(token)


class _TaskFactory:
    """Makes the loop's tasks as before, except that one made inside `contained` cannot end the loop."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        if _contained.get():
            coro = _Contained(coro)
        if self._before is not None:
            return self._before(loop, coro, **options)
        name = options.pop("name", None)
        task = asyncio.Task(coro, loop=loop, **options)
        if name is not None:
            task.set_name(name)
        return task


class _Contained(Coroutine[Any, Any, Any]):
    def __init__(self, coro: Coroutine[Any, Any, Any]) -> None:
        self._coro = coro
        self.__name__ = getattr(coro, "__name__", "contained")
        self.__qualname__ = getattr(coro, "__qualname__", "contained")

    def send(self, value: Any) -> Any:
        try:
            return self._coro.send(value)
        except SystemExit as error:
            raise Exited(exit_call(error)) from error

    def throw(self, *error: Any) -> Any:
        try:
            return self._coro.throw(*error)
        except SystemExit as error:
            raise Exited(exit_call(error)) from error

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Any:
        return self._coro.__await__()


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
