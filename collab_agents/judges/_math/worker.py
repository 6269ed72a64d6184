"""A pool of processes that run a script, for work that holds the interpreter or may never end."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


class WorkerTimeout(Exception):
    """The worker gave no answer in time or crashed. The next request starts a new one."""


class WorkerPool:
    """Processes of a script, at most one per core, started on demand.

    The script writes one line when it is ready, and then, for each line of JSON on its standard input, one line of JSON
    on its standard output. Callers may use any event loop. The processes end with this one.
    """

    _READY_SECONDS = 120.0

    def __init__(self, script: Path, *, timeout: float) -> None:
        self._script = script
        self._timeout = timeout
        cores = len(os.sched_getaffinity(0))
        self._threads = ThreadPoolExecutor(cores, thread_name_prefix=script.stem)
        self._own = threading.local()

    async def ask(self, request: dict[str, object]) -> Any:
        """Return the script's answer. Raises WorkerTimeout, or RuntimeError if the script does not start."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, request)

    def _ask(self, request: dict[str, object]) -> Any:
        process: subprocess.Popen[str] | None = getattr(self._own, "process", None)
        if process is None or process.poll() is not None:
            process = self._own.process = self._start()
        answer = _exchange(process, json.dumps(request) + "\n", self._timeout)
        if not answer:
            raise WorkerTimeout(f"no answer within {self._timeout:g} s")
        return json.loads(answer)

    def _start(self) -> "subprocess.Popen[str]":
        # -P keeps the script's folder, which is part of this package, off the module search path.
        command = [sys.executable, "-P", str(self._script)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if not _exchange(process, "", self._READY_SECONDS):
            raise RuntimeError(f"{self._script.name} does not start")
        return process


def _exchange(process: "subprocess.Popen[str]", line: str, seconds: float) -> str:
    """Return the process's next line, or kill the process and return "" if there is none in time."""
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        process.stdin.write(line)
        process.stdin.flush()
        answer = process.stdout.readline()
    except OSError:
        answer = ""
    finally:
        timer.cancel()
    if not answer.endswith("\n"):
        process.kill()
        process.wait()
        return ""
    return answer
