"""Scripts in processes where the stand-in for vLLM is installed."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.process import ROOT

QUICKER = "import gc; gc.set_threshold(50_000)\n"
"""As in commands: loading takes a tenth less time."""

STAND_IN = ROOT / "tests" / "support" / "vllm_stand_in"


def script(
    folder: Path,
    text: str,
    *arguments: str,
    launcher: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> list[Any]:
    """Run a script in a folder, and return the lines that it printed as JSON."""
    (folder / "script.py").write_text(QUICKER + text)
    path = os.pathsep.join([str(STAND_IN), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *launcher, "script.py", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **(environment or {})},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(('{"', "[{", '"'))]
