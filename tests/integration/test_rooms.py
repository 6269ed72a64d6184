"""Which module may import which: the import contract in pyproject.toml."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.process import ROOT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "collab_agents", tmp_path / "collab_agents", ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> tuple[int, str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_every_room_imports_only_those_below_it(copy: Path) -> None:
    assert lint(copy)[0] == 0


@pytest.mark.parametrize(
    ("room", "line", "arrow"),
    [
        ("judges/base.py", "from collab_agents.runs import evaluate", "judges.base -> collab_agents.runs"),
        ("graphs/nodes.py", "import collab_agents.config", "graphs.nodes -> collab_agents.config"),
        ("errors.py", "def late():\n    import collab_agents.messages", "errors -> collab_agents.messages"),
    ],
)
def test_an_arrow_that_points_up_fails(copy: Path, room: str, line: str, arrow: str) -> None:
    with (copy / "collab_agents" / room).open("a") as file:
        file.write(f"\n{line}\n")
    code, output = lint(copy)
    assert code == 1
    assert arrow in output


def test_a_room_without_a_place_fails(copy: Path) -> None:
    (copy / "collab_agents" / "utils.py").write_text("")
    code, output = lint(copy)
    assert code == 1
    assert "utils" in output
