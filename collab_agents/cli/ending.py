"""How the command line ends: when it is asked to, and without waiting for threads that hang."""

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

_PATIENCE = 1.0
"""Seconds that threads get to end."""

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


class Termination:
    """SIGTERM, taken as a Ctrl-C. came: whether it was sent."""

    def __init__(self) -> None:
        self.came = False
        signal.signal(signal.SIGTERM, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        interrupt = signal.getsignal(signal.SIGINT)
        if not callable(interrupt):  # Ignored, as that of a job in the background of a script is.
            raise KeyboardInterrupt
        interrupt(signal.SIGINT, frame)


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
