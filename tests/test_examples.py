"""What the README and the examples show, as a new user would run it: outside the repository."""

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from collab_agents.config import EvalConfig, JudgeConfig, RunConfig, TasksConfig, load_config
from collab_agents.judges import JUDGES
from collab_agents.tasks import TASK_SETS
from collab_agents.trajectories import read_trajectories
from tests.conftest import ROOT, Server


def run(file: Path, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(file)],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
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


def test_a_person_takes_part_in_the_human_example(tmp_path: Path) -> None:
    """Which a script does where there is no terminal."""
    lines = run(ROOT / "examples" / "human.py", tmp_path).splitlines()
    assert lines[0] == "goal: You want to know a fruit that is not an apple."
    assert lines[1].startswith("assistant: ")
    assert "The whole conversation, ended by user:" in lines
    order = [line.strip("= ") for line in lines if re.fullmatch(r"=+ \w+ Message =+", line)]
    assert order == ["Human Message", "Ai Message", "Human Message"]
    assert lines[-1] == "That will do, thanks."


def test_the_example_configurations_are_valid() -> None:
    for name in ("offline.yaml", "openai.yaml"):
        assert load_config(ROOT / "examples" / name, RunConfig).judges
    for name in ("paper.yaml", "evaluate/plain.yaml", "evaluate/proactive.yaml"):
        assert load_config(ROOT / "examples" / name, EvalConfig).tasks


def test_every_judge_and_task_set_is_in_the_readme_and_its_example_is_valid() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    judges = dict(re.findall(r"^\| `(\w+)` \|.*\| `(\{.*\})` \|$", readme, re.MULTILINE))
    assert set(judges) >= set(JUDGES)
    for name, example in judges.items():
        config = JudgeConfig.model_validate(yaml.safe_load(example))
        parameters = inspect.signature(JUDGES[name]).parameters
        assert (config.judge or config.name) == name
        assert set(config.options) <= set(parameters)
        needed = {one for one, parameter in parameters.items() if parameter.default is parameter.empty}
        assert needed <= set(config.options) | ({"model"} if config.model else set())
    tasks = dict(re.findall(r"^\| `([\w-]+)` \|.*\| `tasks: (\{.*\})` \|$", readme, re.MULTILINE))
    assert set(tasks) == set(TASK_SETS)
    for name, example in tasks.items():
        settings = TasksConfig.model_validate(yaml.safe_load(example))
        assert settings.source == name
        assert set(settings.options) <= set(inspect.signature(TASK_SETS[name]).parameters)
