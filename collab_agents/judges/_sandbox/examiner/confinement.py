"""Limits that a process sets on itself before it runs foreign code."""

import ctypes
import os
import resource
import signal
from pathlib import Path
from typing import Any

OPEN_FILES = 512
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4


def confine(limits: dict[str, Any], user: int | None) -> None:
    """Take the limits, and give up being root."""
    Path("/proc/self/oom_score_adj").write_text("1000")  # Should memory run out, this is what the kernel ends.
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    wanted = {
        resource.RLIMIT_AS: limits["memory_mb"] << 20,
        resource.RLIMIT_FSIZE: limits["file_mb"] << 20,
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: limits["cpu_seconds"],
    }
    for kind, most in wanted.items():
        if most is not None:
            # The second limit on CPU time, a second later, kills what ignores the first.
            hard = most + 1 if kind == resource.RLIMIT_CPU else most
            ceiling = resource.getrlimit(kind)[1]
            hard = hard if ceiling == resource.RLIM_INFINITY else min(hard, ceiling)
            resource.setrlimit(kind, (min(most, hard), hard))


def shield() -> None:
    """Keep this process's memory and open files from others of the same user, and end with the sandbox's parent."""
    control = ctypes.CDLL(None).prctl
    control(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if os.getpid() == 1:
        control(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
