"""What the README and the examples show, as a new user would run it: outside the repository."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from collab_agents.config import RunConfig, load_config
from collab_agents.trajectories import read_trajectories
from tests.conftest import ROOT, Server


def run(file: Path, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(file)], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readmes_program_prints_rewards_of_real_candidates(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0]
    assert "asyncio.run(main())" in program
    (tmp_path / "program.py").write_text(program)
    lines = run(tmp_path / "program.py", tmp_path).splitlines()
    assert len(lines) == 4
    assert all(re.fullmatch(r"offline-train-00\d \[-?[\d.]+, -?[\d.]+\] chose [01]", line) for line in lines)


def test_the_openai_example_runs_on_any_server_with_its_api(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    for _ in range(2):  # The second time it finds its work done.
        run(ROOT / "examples" / "openai_api.py", tmp_path, OPENAI_BASE_URL=server.url, COLLAB_MODEL="any")
        (trajectory,) = read_trajectories(tmp_path / "runs" / "toast")
        assert trajectory.persona is not None
        assert set(trajectory.scores) == {"bleu", "interactivity", "cost"}


def test_the_example_configurations_are_valid() -> None:
    for name in ("offline.yaml", "openai.yaml"):
        assert load_config(ROOT / "examples" / name, RunConfig).judges
