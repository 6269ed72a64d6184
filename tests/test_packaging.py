"""What the distribution installs, and that it stands next to an application with packages of the same names."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_made_from_the_sdist_has_everything_and_nothing_generic(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"collab_agents", f"collab_agents-{wheel.name.split('-')[1]}.dist-info"}
    for needed in ("graphs/served.py", "training/__init__.py", "prompts/llm_user.txt", "py.typed", "models/local.py"):
        assert f"collab_agents/{needed}" in names


def test_an_application_keeps_its_own_graphs_and_training(wheel: Path, tmp_path: Path) -> None:
    site, app = tmp_path / "site", tmp_path / "app"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    for package in ("graphs", "training"):
        (app / package).mkdir(parents=True)
        (app / package / "__init__.py").write_text("MINE = True\n")
    (app / "main.py").write_text(
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import graphs, training, collab_agents.graphs, collab_agents.training\n"
        "from collab_agents import create_rollout_graph\n"
        "assert graphs.MINE and training.MINE\n"
        "print(collab_agents.graphs.__file__)\n"
    )
    done = subprocess.run([sys.executable, "main.py"], cwd=app, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.strip() == str(site / "collab_agents" / "graphs" / "__init__.py")
