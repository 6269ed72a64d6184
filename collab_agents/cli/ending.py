"""How the command line ends: without waiting for threads that hang."""

import os
import sys
import threading
import time
from typing import NoReturn

_PATIENCE = 1.0
"""Seconds that threads get to end."""


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
