"""Commands of the library, one after another in a process of their own. A command whose result exists is skipped.

python -m benchmarks.steps steps.json
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.process import ROOT
from collab_agents.cli.app import run_command

DONE = "done.json"
"""The file in a command's folder that says how many seconds it took. It exists if the command succeeded."""

Commands = Sequence[Sequence[str]]
"""Each ends with its folder, as in `["train", "sft", "--config", "sft.yaml", "--out", "runs/sft"]`."""


class Steps:
    """Runs chains of commands within a time limit, each chain in a process of its own.

    Args:
        logs: The folder for their commands and output.
        parallel: How many chains run at once, to share the processor's cores among them.
        seconds: When to end those that run, and to start no more.
    """

    def __init__(self, logs: Path, *, parallel: int, seconds: float) -> None:
        self._logs = logs
        self._end = time.monotonic() + seconds
        cores = str(max(1, (os.cpu_count() or 1) // parallel))
        self._environment = {"OMP_NUM_THREADS": cores, "TOKENIZERS_PARALLELISM": "false", **os.environ}
        logs.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, commands: Commands) -> bool:
        """Run the commands up to the first that fails, and return whether all results exist."""
        if not is_done(commands) and self._end > time.monotonic():
            chain = self._logs / f"{name}.json"
            chain.write_text(json.dumps(commands), encoding="utf-8")
            with open(self._logs / f"{name}.log", "a", encoding="utf-8") as log:
                self._wait(
                    subprocess.Popen(
                        [sys.executable, "-m", "benchmarks.steps", str(chain)],
                        cwd=ROOT,
                        env=self._environment,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        return is_done(commands)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(timeout=max(0.0, self._end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()  # What is finished is on disk.
            process.wait()


def is_done(commands: Commands) -> bool:
    return all(Path(command[-1], DONE).exists() for command in commands)


def follow(commands: Commands) -> None:
    for command in commands:
        out = Path(command[-1])
        if (out / DONE).exists():
            continue
        resumable = command[0] in ("generate", "evaluate", "improve")
        if not resumable:
            shutil.rmtree(out, ignore_errors=True)
        begin = time.monotonic()
        code = run_command([*command, "--resume"] if resumable else list(command))
        if code and not (code == 1 and _failures(out)):
            raise SystemExit(code)
        (out / DONE).write_text(json.dumps({"seconds": time.monotonic() - begin}), encoding="utf-8")


def _failures(out: Path) -> bool:
    """Whether tasks failed, which ends a command with code 1 although it is finished."""
    return any(file.stat().st_size for file in out.rglob("failures.jsonl"))


if __name__ == "__main__":
    follow(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
