"""How the command line ends: on signals, and without waiting for threads that hang."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from collab_agents._internal.sync import is_work_left

_PATIENCE = 1.0
"""Seconds that threads get to end."""

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


class Termination:
    """Handles SIGTERM like Ctrl-C; `came` says whether it was sent."""

    def __init__(self) -> None:
        self.came = False
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # SIGINT is ignored, as in a script's background job. An event loop cancels its work on SIGINT only if
            # Python's own handler is installed, so install it, and block the signal itself.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        interrupt = signal.getsignal(signal.SIGINT)
        assert callable(interrupt)
        interrupt(signal.SIGINT, frame)


def leave(code: int) -> NoReturn:
    """Exit with the code, and abandon threads and tasks that do not end by themselves."""
    for stream in (sys.stdout, sys.stderr):
        if stream:
            with suppress(OSError):  # For a pipe that is no longer read.
                stream.flush()
    if is_work_left():
        os._exit(code)
    others = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    if others:
        threading.Thread(target=_exit_without, args=(others, code), daemon=True).start()
    sys.exit(code)


def _exit_without(threads: list[threading.Thread], code: int) -> None:
    """Exit by force if the threads do not end, since Python joins them when it exits."""
    until = time.monotonic() + _PATIENCE
    for thread in threads:
        thread.join(max(0, until - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        os._exit(code)
