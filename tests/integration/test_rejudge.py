"""The command `rejudge`, and `drop_faulty` in the commands: what they print, keep and refuse."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.process import Server
from collab_agents.trajectories import read_trajectories
from tests.support.commands import run, start, wait_for_turns

Serve = Callable[..., Server]
TASKS = 6


def write(folder: Path, name: str, **sections: Any) -> Path:
    (folder / name).write_text(yaml.safe_dump(sections))
    return folder / name


def played(server: Server, folder: Path, **changes: Any) -> tuple[Path, dict[str, Any]]:
    """A run of lookahead, and its configuration."""
    model = {"name": "openai:any", "base_url": server.url}
    config: dict[str, Any] = {
        "assistant": {"model": model},
        "judges": [{"name": "interactivity", "model": model}, {"name": "token_cost"}],
        "lookahead": {"candidates": 3, "futures": 2, "window": 1, "max_exchanges": 2},
        "tasks": {"source": "offline", "limit": TASKS},
    } | changes
    out = folder / "x"
    assert run("generate", "--config", write(folder, "run.yaml", **config), "--out", out)[0] == 0
    return out, config


def test_other_weights_ask_nobody_and_the_turns_that_would_differ_are_listed(serve: Serve, tmp_path: Path) -> None:
    server = serve("--deterministic")
    x, config = played(server, tmp_path)
    calls = server.stats()["calls"]
    judges = [{**config["judges"][0], "weight": -1}, {"name": "token_cost", "weight": 0}]
    other, y = write(tmp_path, "other.yaml", **(config | {"judges": judges})), tmp_path / "y"
    code, output, error = run("rejudge", x, "--config", other, "--out", y)
    assert (code, error) == (0, "")
    assert server.stats()["calls"] == calls + 1, "one call to see that the server answers"
    assert f"Judging {TASKS} trajectories again, by nobody; kept from {x}: interactivity, token_cost ..." in output
    assert f"{TASKS} trajectories judged again" in output
    for old, new in zip(read_trajectories(x), read_trajectories(y), strict=True):
        assert (new.task, new.messages) == (old.task, old.messages)
        assert new.reward == -(old.scores["interactivity"] or 0)
    choices = json.loads((y / "run.json").read_text())["choices"]
    assert choices["turns"] == 2 * TASKS
    share = choices["changed"] / choices["turns"]
    said = f"Another candidate would have been chosen in {choices['changed']} of {2 * TASKS} turns ({share:.1%})."
    assert said in output
    assert choices["changed"] > TASKS
    assert len(re.findall(r"offline-train-00\d │ +[12] │ +[012] │ +[012] │ +0\.\d{3}", output)) == choices["changed"]
    code, tree, _ = run("show", y, "--task", "offline-train-000")
    assert code == 0
    assert "chosen candidate" in tree
    assert "highest candidate" in tree

    code, output, _ = run("rejudge", x, "--config", other, "--out", tmp_path / "z", "--ask-all")
    assert code == 0
    assert "by interactivity, token_cost ..." in output
    assert server.stats()["calls"] == calls + 2 + TASKS * (1 + 2 * 3 * 2)


def test_a_killed_rejudge_is_resumed(serve: Serve, tmp_path: Path) -> None:
    server = serve("--deterministic", "--latency", "0.02")
    x, config = played(server, tmp_path)
    model = config["assistant"]["model"] | {"limits": {"max_concurrent_calls": 4}}
    other = write(tmp_path, "other.yaml", judges=[{"name": "interactivity", "model": model, "options": {"samples": 2}}])
    y = tmp_path / "y"
    arguments = ("rejudge", x, "--config", other, "--out", y, "--max-concurrency", "1")
    process = start(*arguments)
    wait_for_turns(server, process, server.stats()["calls"] + 60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = [one.task.id for one in read_trajectories(y)]
    assert 0 < len(before) < TASKS
    calls = server.stats()["calls"]
    code, output, error = run(*arguments, "--resume")
    assert (code, error) == (0, "")
    assert f"tasks {TASKS}/{TASKS}" in " ".join(output.split())
    assert server.stats()["calls"] <= calls + 1 + (TASKS - len(before)) * 2 * (1 + 2 * 3 * 2)
    after = [one.task.id for one in read_trajectories(y)]
    assert after[: len(before)] == before
    assert len(set(after)) == len(after) == TASKS


def test_futures_with_a_faulty_user_are_counted(serve: Serve, tmp_path: Path) -> None:
    server = serve("--deterministic")
    user = {"kind": "scripted", "lines": ["Hello, I need a text.", "Could you write it?"]}
    look = {"candidates": 2, "futures": 2, "window": 2, "max_exchanges": 1}
    x, config = played(server, tmp_path, user=user, lookahead=look)
    assert not any(f.dropped for one in read_trajectories(x) for c in one.turns[0].candidates for f in c.futures)
    other = write(tmp_path, "other.yaml", **(config | {"lookahead": look | {"drop_faulty": True}}))
    code, output, _ = run("rejudge", x, "--config", other, "--out", tmp_path / "y")
    assert code == 0
    futures = TASKS * 4
    assert re.search(rf"futures dropped for faults of the user │ +{futures} of {futures}", output)
    assert re.search(rf"- ends_early +│ +{futures}", output)
    code, tree, _ = run("show", tmp_path / "y", "--task", "offline-train-000")
    assert "dropped for faults of the simulated user: ends_early" in tree
    assert run("generate", "--config", other, "--out", tmp_path / "z")[0] == 1
    (reason,) = {json.loads(line)["error"] for line in (tmp_path / "z" / "failures.jsonl").read_text().splitlines()}
    assert reason == "turn 1: no candidate could be scored: dropped for faults of the simulated user: ends_early"


def test_a_run_from_before_a_setting_of_the_lookahead_is_resumed(serve: Serve, tmp_path: Path) -> None:
    server = serve("--deterministic")
    x, config = played(server, tmp_path)
    settings = json.loads((x / "run.json").read_text())
    del settings["config"]["lookahead"]["drop_faulty"]
    (x / "run.json").write_text(json.dumps(settings))
    same = ("generate", "--config", tmp_path / "run.yaml", "--out", x, "--resume")
    assert run(*same)[0] == 0
    write(tmp_path, "run.yaml", **(config | {"lookahead": config["lookahead"] | {"drop_faulty": True}}))
    code, _, error = run(*same)
    assert code == 1
    assert "was made with lookahead.drop_faulty = False, and now it is True" in error


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"judges": []}, "judges: list should have at least 1 item"),
        ({"judge": [{"name": "token_cost"}]}, "judge: unknown field; did you mean 'judges'?"),
        ({"judges": [{"name": "accuracy"}], "lookahead": {"drop_fault": True}}, "did you mean 'drop_faulty'?"),
        ({"judges": [{"name": "clarification"}]}, "needs metadata.ambiguous (true or false)"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(
    serve: Serve, tmp_path: Path, sections: dict[str, Any], problem: str
) -> None:
    x, _ = played(serve("--deterministic"), tmp_path)
    other = write(tmp_path, "other.yaml", **sections)
    code, output, error = run("rejudge", x, "--config", other, "--out", tmp_path / "y")
    assert (code, output) == (1, "")
    assert error.startswith("error: ")
    assert problem in error
    assert error.count("\n") == 1
    assert not (tmp_path / "y").exists()


def test_a_folder_without_a_run_and_tasks_that_cannot_be_reviewed_are_named(serve: Serve, tmp_path: Path) -> None:
    other = write(tmp_path, "other.yaml", judges=[{"name": "token_cost"}])
    code, _, error = run("rejudge", tmp_path, "--config", other, "--out", tmp_path / "y")
    assert (code, error) == (1, f"error: {tmp_path}: there is no trajectories.jsonl; is it a run directory?\n")
    (tmp_path / "plain.jsonl").write_text('{"id": "a", "goal": "You want a letter."}\n')
    config = write(
        tmp_path,
        "run.yaml",
        assistant={"model": {"name": "openai:any", "base_url": serve().url}},
        user={"kind": "scripted", "lines": ["Hi"]},
        judges=[{"name": "token_cost"}],
        lookahead={"drop_faulty": True},
        tasks={"source": str(tmp_path / "plain.jsonl")},
    )
    code, _, error = run("generate", "--config", config, "--out", tmp_path / "z")
    assert code == 1
    assert "task 'a' has no metadata.agenda" in error
    assert "give user_faults a model (judge user_faults)" in error
