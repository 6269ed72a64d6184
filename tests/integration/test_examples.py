"""What the README and the examples show, as a new user would run it: outside the repository."""

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.process import ROOT, Server
from collab_agents.cli.checks import check_loop
from collab_agents.config import EvalConfig, RunConfig, load_config
from collab_agents.training.config import OfflineConfig
from collab_agents.trajectories import read_trajectories
from tests.support.application import Application

EXAMPLES = ROOT / "examples"


# All run from the installed wheel, outside the repository, next to packages `graphs` and `training` of their own.


def test_the_programs_with_the_embedded_model_show_what_they_say(application: Application) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0]
    assert "asyncio.run(main())" in program
    (application.folder / "program.py").write_text(program)
    batch: list[str | Path] = [EXAMPLES / "batch.py", "runs/batch", "2"]
    outputs = application.run_in_turn(
        ["program.py"],
        [EXAMPLES / "human.py"],
        [EXAMPLES / "custom_persona.py"],
        batch,
        batch,
        [EXAMPLES / "parent_graph.py"],
    )
    readmes, human, personas, first, second, parent = outputs
    check_candidates(readmes)
    check_human(human)
    check_personas(personas)
    check_batch(first, second)
    check_parent_graph(parent)


def check_candidates(printed: str) -> None:
    """The README's program prints the rewards of real candidates."""
    lines = printed.splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(r"offline-train-00\d \[-?[\d.]+, -?[\d.]+\] chose [01]", line) for line in lines)


def check_human(printed: str) -> None:
    """A person takes part, for whom a script answers where there is no terminal."""
    lines = printed.splitlines()
    assert lines[0] == "goal: You want to know a fruit that is not an apple."
    assert lines[1].startswith("assistant: ")
    assert "The whole conversation, ended by user:" in lines
    order = [line.strip("= ") for line in lines if re.fullmatch(r"=+ \w+ Message =+", line)]
    assert order == ["Human Message", "Ai Message", "Human Message"]
    assert lines[-1] == "That will do, thanks."


def check_personas(printed: str) -> None:
    """Custom personas play, one of them with a custom user."""
    lines = printed.splitlines()
    played = [line for line in lines if ", played by " in line]
    assert len(played) == 2
    shouted = [line.partition(": ")[2] for line in played[1:]]
    assert all(words == words.upper() for words in shouted)
    assert all(re.match(r"  rewards \[-?[\d.]+, -?[\d.]+\] chose [01]", line) for line in lines if line not in played)


def check_batch(first: str, second: str) -> None:
    """A batch is generated and, the second time, found done."""
    lines = first.splitlines()
    assert sorted(line.split(":")[0] for line in lines[:-1]) == ["1 of 2", "2 of 2"]
    (again,) = second.splitlines()
    assert again == lines[-1]
    assert again.startswith("2 trajectories in runs/batch; ")


def check_parent_graph(printed: str) -> None:
    """A parent graph streams the chosen reply."""
    assert re.match(r"user: .+\nagent: \S+", printed)
    assert re.search(r"of rewards \[.+\] number \d: (the highest reward|the first candidate: .+)\n\d+ calls", printed)


def test_the_openai_example_runs_on_any_server_with_its_api(
    serve: Callable[..., Server], application: Application
) -> None:
    server = serve()
    for _ in range(2):  # The second time it finds its work done.
        application.run(EXAMPLES / "openai_api.py", OPENAI_BASE_URL=server.url, COLLAB_MODEL="any")
        (trajectory,) = read_trajectories(application.folder / "runs" / "toast")
        assert trajectory.persona is not None
        assert set(trajectory.scores) == {"bleu", "interactivity", "cost"}


def test_an_existing_agent_asks_first_in_its_example(application: Application) -> None:
    lines = application.run(EXAMPLES / "existing_agent.py").splitlines()
    assert lines[1] == "agent: Which one shall I cancel? 7: two mugs, 8: a lamp"
    assert lines[4] == "agent: Done: cancelled 8: a lamp."
    assert lines[-1] == "orders left: {'7': 'two mugs'}"


def test_one_conversation_with_an_app_is_simulated_in_its_example(application: Application) -> None:
    lines = application.run(EXAMPLES / "simulate_app.py").splitlines()
    assert [line.split(": ")[0] for line in lines[:-1]] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert lines[4:6] == ["tool: order 7 is cancelled", "assistant: Done: order 7 is cancelled."]
    assert lines[-1].startswith("ended by user; {'cost': -")


def test_the_example_configurations_are_valid() -> None:
    for name in ("offline.yaml", "demo.yaml", "chat.yaml", "embedded.yaml", "openai.yaml", "train_app/generate.yaml"):
        assert load_config(ROOT / "examples" / name, RunConfig).judges
    for name in ("paper.yaml", "evaluate/plain.yaml", "evaluate/proactive.yaml"):
        assert load_config(ROOT / "examples" / name, EvalConfig).tasks
    assert load_config(ROOT / "examples" / "train_app" / "sft.yaml", OfflineConfig).data.runs
    assert check_loop(ROOT / "examples/train_collaborator/loop.yaml") == [80, 112]
