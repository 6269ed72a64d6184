"""What the README and the examples show, as a new user would run it: outside the repository."""

import re
from collections.abc import Callable

from benchmarks.process import ROOT, Server
from collab_agents.config import EvalConfig, RunConfig, load_config
from collab_agents.trajectories import read_trajectories
from tests.support.application import Application

EXAMPLES = ROOT / "examples"


# All run from the installed wheel, outside the repository, next to packages `graphs` and `training` of their own.


def test_the_readmes_program_prints_rewards_of_real_candidates(application: Application) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0]
    assert "asyncio.run(main())" in program
    (application.folder / "program.py").write_text(program)
    lines = application.run("program.py").splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(r"offline-train-00\d \[-?[\d.]+, -?[\d.]+\] chose [01]", line) for line in lines)


def test_the_openai_example_runs_on_any_server_with_its_api(
    serve: Callable[..., Server], application: Application
) -> None:
    server = serve()
    for _ in range(2):  # The second time it finds its work done.
        application.run(EXAMPLES / "openai_api.py", OPENAI_BASE_URL=server.url, COLLAB_MODEL="any")
        (trajectory,) = read_trajectories(application.folder / "runs" / "toast")
        assert trajectory.persona is not None
        assert set(trajectory.scores) == {"bleu", "interactivity", "cost"}


def test_a_person_takes_part_in_the_human_example(application: Application) -> None:
    """Which a script does where there is no terminal."""
    lines = application.run(EXAMPLES / "human.py").splitlines()
    assert lines[0] == "goal: You want to know a fruit that is not an apple."
    assert lines[1].startswith("assistant: ")
    assert "The whole conversation, ended by user:" in lines
    order = [line.strip("= ") for line in lines if re.fullmatch(r"=+ \w+ Message =+", line)]
    assert order == ["Human Message", "Ai Message", "Human Message"]
    assert lines[-1] == "That will do, thanks."


def test_personas_of_ones_own_play_in_their_example(application: Application) -> None:
    lines = application.run(EXAMPLES / "custom_persona.py").splitlines()
    played = [line for line in lines if ", played by " in line]
    assert len(played) == 2
    shouted = [line.partition(": ")[2] for line in played[1:]]
    assert all(words == words.upper() for words in shouted)
    assert all(re.match(r"  rewards \[-?[\d.]+, -?[\d.]+\] chose [01]", line) for line in lines if line not in played)


def test_a_batch_is_generated_and_resumed_in_its_example(application: Application) -> None:
    lines = application.run(EXAMPLES / "batch.py", "runs/batch", "2").splitlines()
    assert sorted(line.split(":")[0] for line in lines[:-1]) == ["1 of 2", "2 of 2"]
    (again,) = application.run(EXAMPLES / "batch.py", "runs/batch", "2").splitlines()
    assert again == lines[-1]
    assert again.startswith("2 trajectories in runs/batch; ")


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


def test_a_parent_graph_streams_the_chosen_reply_in_its_example(application: Application) -> None:
    out = application.run(EXAMPLES / "parent_graph.py")
    assert re.match(r"user: .+\nagent: \S+", out)
    assert re.search(r"of rewards \[.+\] number \d: (the highest reward|the first candidate: .+)\n\d+ calls", out)


def test_the_example_configurations_are_valid() -> None:
    for name in ("offline.yaml", "openai.yaml"):
        assert load_config(ROOT / "examples" / name, RunConfig).judges
    for name in ("paper.yaml", "evaluate/plain.yaml", "evaluate/proactive.yaml"):
        assert load_config(ROOT / "examples" / name, EvalConfig).tasks
