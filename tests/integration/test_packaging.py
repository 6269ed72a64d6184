"""The wheel: what it installs, and that an application keeps its own packages `graphs` and `training`."""

import zipfile
from pathlib import Path

from tests.support.application import Application


def test_the_wheel_made_from_the_sdist_has_everything_and_nothing_generic(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"collab_agents", f"collab_agents-{wheel.name.split('-')[1]}.dist-info"}
    for needed in (
        "graphs/served.py",
        "training/__init__.py",
        "prompts/llm_user.txt",
        "py.typed",
        "judges/_sandbox/examiner/supervise.py",
    ):
        assert f"collab_agents/{needed}" in names


def test_an_application_keeps_its_own_graphs_and_training(application: Application) -> None:
    (application.folder / "main.py").write_text(
        "import graphs, training, collab_agents.graphs, collab_agents.training\n"
        "from collab_agents import create_rollout_graph\n"
        "assert graphs.MINE and training.MINE\n"
        "print(collab_agents.graphs.__file__)\n"
    )
    where = application.run("main.py").strip()
    assert where == str(application.site / "collab_agents" / "graphs" / "__init__.py")
