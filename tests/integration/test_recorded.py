"""What earlier versions recorded can still be played again, read and resumed.

The recordings in tests/data/recorded are those of `collab-agents generate --config agenda.yaml` (and llm.yaml) with
`python -m benchmarks.server --deterministic --port 8000`; the run in `interrupted` was killed in its second task.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.process import ROOT, Server
from collab_agents.runs.directory import RunDirectory
from collab_agents.trajectories import Trajectory, read_trajectories
from tests.support.commands import exit_code as run

RECORDED = ROOT / "tests" / "data" / "recorded"
ADDRESS = "http://127.0.0.1:8000/v1"


def with_address(file: Path, server: Server, folder: Path) -> Path:
    """A copy of the file that names the server's address."""
    copy = folder / file.name
    copy.write_text(file.read_text().replace(ADDRESS, server.url))
    return copy


def by_task(source: Path) -> dict[str, Trajectory]:
    return {one.task.id: one for one in read_trajectories(source)}


@pytest.mark.parametrize("user", ["agenda", "llm"])
def test_a_configuration_gives_the_trajectories_it_always_gave(
    user: str, serve: Callable[..., Server], tmp_path: Path
) -> None:
    config = with_address(RECORDED / f"{user}.yaml", serve("--deterministic"), tmp_path)
    assert run("generate", "--config", config, "--out", tmp_path / "run") == 0
    assert by_task(tmp_path / "run") == by_task(RECORDED / f"{user}.jsonl")


def test_a_run_that_was_interrupted_then_is_read_and_resumed_now(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve("--deterministic")
    config = with_address(RECORDED / "agenda.yaml", server, tmp_path)
    out = tmp_path / "run"
    shutil.copytree(RECORDED / "interrupted", out)
    with_address(RECORDED / "interrupted" / "run.json", server, out)
    assert run("show", out) == 0
    (before,) = read_trajectories(out)
    assert run("generate", "--config", config, "--out", out, "--resume") == 0
    whole = by_task(RECORDED / "agenda.jsonl")
    assert by_task(out) == whole
    left = [one.usage.calls for one in whole.values() if one.task.id != before.task.id]
    assert server.stats()["calls"] < sum(left), "turns that were played before are played again"


def test_a_run_whose_column_of_goals_was_called_prompt_is_resumed(tmp_path: Path) -> None:
    before, now = ({"tasks": {"columns": {name: "question"}}} for name in ("prompt", "goal"))
    with RunDirectory(tmp_path / "run", settings=before):
        pass
    with RunDirectory(tmp_path / "run", settings=now, resume=True):
        pass
