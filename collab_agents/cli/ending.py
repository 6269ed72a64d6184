"""How the command line ends: without waiting for threads that hang."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

_PATIENCE = 1.0
"""Seconds that threads get to end."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, which would wait for the threads of every sync node or function that hangs."""
    with asyncio.Runner(loop_factory=_create_loop) as runner:
        return runner.run(work)


def leave(code: int) -> NoReturn:
    """Exit with the code, and leave threads behind that do not end by themselves."""
    for stream in (sys.stdout, sys.stderr):
        if stream:
            stream.flush()
    until = time.monotonic() + _PATIENCE
    others = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    for thread in others:
        thread.join(max(0, until - time.monotonic()))
    if any(thread.is_alive() for thread in others):
        os._exit(code)  # Python would join them, for ever.
    sys.exit(code)


def _create_loop() -> asyncio.AbstractEventLoop:
    loop, executor = asyncio.new_event_loop(), ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop.set_default_executor(executor)

    async def shutdown() -> None:
        executor.shutdown(wait=False, cancel_futures=True)

    vars(loop)["shutdown_default_executor"] = shutdown
    return loop
