"""Commands of the command line, in this process and in one of their own."""

import io
import os
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from benchmarks.process import Server
from collab_agents.cli.app import run_command

COMMAND = [sys.executable, "-m", "collab_agents"]


def exit_code(*arguments: str | Path) -> int:
    """The exit code of a command that is run in this process, which has everything loaded."""
    with patch.dict(os.environ, {"OPENAI_API_KEY": ""}), patch.object(sys, "path", [*sys.path]):
        return run_command([str(argument) for argument in arguments])


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """The exit code of a command, and what it prints: in this process, which has everything loaded."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = exit_code(*arguments)
    return code, out.getvalue(), err.getvalue()


def start(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "OPENAI_API_KEY": "", **environment},
    )


def wait_for_turns(server: Server, process: "subprocess.Popen[str]", calls: int) -> None:
    while server.stats()["calls"] < calls and process.poll() is None:
        time.sleep(0.005)
