"""An application with this library installed from its wheel."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


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
