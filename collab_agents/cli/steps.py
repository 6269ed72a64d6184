"""Commands that a longer one runs, each in a process of its own."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collab_agents.errors import RunDirectoryError

_PARENT = "COLLAB_AGENTS_PARENT"
"""The environment variable with the descriptor of a pipe whose other end the parent holds."""

_WAIT = 60.0
"""Seconds that a step of a killed process gets to end."""


def run_step(arguments: list[str], lock: Path) -> int:
    """Run a command and return its exit code, negative for a signal.

    On Ctrl-C and SIGTERM, the step is told to end, and KeyboardInterrupt is raised when it has. It has a process group
    of its own, because a terminal's Ctrl-C would reach it a second time. If this process is killed, the step ends in
    good order too. Until then it holds the lock, so that no other step runs beside it.

    Args:
        arguments: The command with its arguments.
        lock: The file to lock.

    Raises:
        RunDirectoryError: If a step of a process that was killed does not end.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    theirs, ours = os.pipe()
    try:
        with _held(lock) as held:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", "collab_agents", *arguments],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs, held),
                    env={**os.environ, _PARENT: str(theirs)},
                    process_group=0,
                )
            finally:
                os.close(theirs)
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            _wait(process)
            raise
    finally:
        os.close(ours)


def end_with_parent() -> None:
    """End this process as by SIGTERM when the one that runs it as a step has died. Other processes do nothing."""
    given = os.environ.pop(_PARENT, None)
    if given is not None:
        os.set_inheritable(int(given), False)
        threading.Thread(target=_watch, args=(int(given),), daemon=True, name="parent").start()


def _watch(pipe: int) -> None:
    os.read(pipe, 1)  # Nothing is ever written: it returns when the other end is closed.
    os.kill(os.getpid(), signal.SIGTERM)


def _wait(process: "subprocess.Popen[bytes]") -> None:
    """Wait for a process that was told to end. Another Ctrl-C kills it."""
    while process.returncode is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            process.kill()


@contextmanager
def _held(lock: Path) -> Iterator[int]:
    """Lock a file for the processes that have the descriptor, which is closed here afterwards."""
    held = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        until = time.monotonic() + _WAIT
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise RunDirectoryError(
                        f"{lock.parent} is in use by a step of a process that was killed; wait for it to end"
                    ) from None
                time.sleep(0.1)
        yield held
    finally:
        os.close(held)
