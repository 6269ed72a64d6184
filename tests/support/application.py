"""An application with this library installed from its wheel."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

END = "=== end of program ==="
IN_TURN = f"""
import json, runpy, sys
for command in json.loads(sys.argv[1]):
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
    print({END!r})
"""


@dataclass(frozen=True)
class Application:
    """A folder of somebody's, with packages `graphs` and `training` of its own, and where the wheel is installed."""

    folder: Path
    site: Path

    def run(self, *command: str | Path, **environment: str) -> str:
        """What a Python program prints there, without a terminal."""
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.site), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run_in_turn(self, *commands: list[str | Path]) -> list[str]:
        """What each of several Python programs prints there. They run in one process, which loads a model once."""
        text = self.run("-c", IN_TURN, json.dumps([[str(one) for one in command] for command in commands]))
        return text.split(f"{END}\n")[:-1]
