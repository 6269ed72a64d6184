"""The commands `evaluate`, `judges` and `tasks`: their tables, resuming, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.process import ROOT, Server
from collab_agents.runs.scorecard import Scorecard
from collab_agents.trajectories import read_trajectories
from tests.support.commands import run, start, wait_for_turns

Serve = Callable[..., Server]


def configuration(server: Server, folder: Path, name: str = "eval.yaml", **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "assistant": {"model": {"name": "openai:any", "base_url": server.url}},
        "user": {"kind": "agenda", "personas": [{"name": "patient", "patience": 99}]},
        "judges": [
            {"name": "fact_coverage"},
            {"name": "interactivity", "model": {"name": "openai:judge", "base_url": server.url}},
        ],
        "lookahead": {"max_exchanges": 2},
        "tasks": {"source": "offline", "split": "test", "limit": 6},
    }
    file = folder / name
    file.write_text(yaml.safe_dump(settings | changes))
    return file


def test_the_command_prints_the_paired_table_and_writes_it(serve: Serve, tmp_path: Path) -> None:
    server = serve("--deterministic")
    base = configuration(server, tmp_path, "base.yaml")
    asking = configuration(
        server,
        tmp_path,
        "asking.yaml",
        assistant={"model": {"name": "openai:any", "base_url": server.url}, "proactive": True},
    )
    out = tmp_path / "out"
    code, output, error = run("evaluate", "--config", asking, "--against", base, "--out", out, "--repeats", "2")
    assert (code, error) == (0, "")
    for part in ("tasks 24/24 (0 under way, 0 failed)", "offline: 6 tasks, 2 seeds", "base", "asking", "difference"):
        assert part in output
    card = Scorecard.model_validate_json((out / "scorecard.json").read_text())
    (result,) = card.sets
    assert [side.name for side in result.sides] == ["asking", "base"]
    assert all(len(one.per_seed) == 2 for one in result.sides[0].measures.values())
    table = [line for line in (out / "scorecard.md").read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    assert [row[0] for row in rows] == ["", "---", "base", "asking", "difference", "rel. improvement"]
    assert rows[0][1:] == [
        "fact coverage ↑",
        "interactivity ↑",
        "asks first",
        "assistant ktokens ↓",
        "user tokens ↓",
        "reward ↑",
        "exchanges ↓",
        "ended by user",
    ]
    kept = [json.loads(file.read_text()) for file in (out / "offline").rglob("run.json")]
    assert sum(one["totals"]["calls"] for one in kept) == server.stats()["calls"]
    assert [one["config"]["assistant"]["proactive"] for one in kept].count(True) == 2

    again = tmp_path / "again"
    assert run("evaluate", "--config", asking, "--against", base, "--out", again, "--repeats", "2")[0] == 0
    assert (again / "scorecard.json").read_text() == (out / "scorecard.json").read_text()
    calls = server.stats()["calls"]
    assert run("evaluate", "--config", asking, "--against", base, "--out", out, "--repeats", "2", "--resume")[0] == 0
    assert server.stats()["calls"] - calls <= 2, "only to see that the models answer"
    assert (again / "scorecard.json").read_text() == (out / "scorecard.json").read_text()
    code, whole, _ = run("show", out / "offline" / "base" / "seed-0")
    assert code == 0
    task = whole.split("as a tree: ")[1].split()[0].rstrip(",")
    code, tree, _ = run("show", out / "offline" / "base" / "seed-0", "--task", task)
    assert code == 0
    assert tree.count("assistant: ") == 2


def test_a_killed_evaluation_resumes_to_the_same_scorecard(serve: Serve, tmp_path: Path) -> None:
    server = serve("--deterministic", "--latency", "0.05")
    file = configuration(server, tmp_path, limits={"max_concurrency": 2})
    process = start("evaluate", "--config", file, "--out", tmp_path / "out")
    wait_for_turns(server, process, 8)
    process.kill()
    process.communicate()
    code, _, error = run("evaluate", "--config", file, "--out", tmp_path / "out", "--resume")
    assert (code, error) == (0, "")
    assert run("evaluate", "--config", file, "--out", tmp_path / "whole")[0] == 0
    files = [tmp_path / folder / "scorecard.json" for folder in ("out", "whole")]
    assert files[0].read_text() == files[1].read_text()


def test_several_task_sets_have_their_own_judges_and_users(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "sums.csv").write_text("question,answer\nWhat is 1+1?,2\nWhat is 2+3?,5\n")
    sums = {
        "source": str(tmp_path / "sums.csv"), "name": "sums", "columns": {"goal": "question", "reference": "answer"},
        "user": {"kind": "scripted", "lines": ["{goal}"]}, "judges": [{"name": "accuracy"}], "max_exchanges": 1,
    }  # fmt: skip
    offline = {"source": "offline", "split": "test", "limit": 2}
    file = configuration(serve("--deterministic"), tmp_path, tasks=[offline, sums])
    code, _, error = run("evaluate", "--config", file, "--out", tmp_path / "out")
    assert (code, error) == (0, "")
    card = Scorecard.model_validate_json((tmp_path / "out" / "scorecard.json").read_text())
    assert [(one.name, one.metric, one.tasks) for one in card.sets] == [
        ("offline", "fact_coverage", 2),
        ("sums", "accuracy", 2),
    ]
    assert card.sets[1].sides[0].measures["accuracy"].value == 0.0
    assert card.sets[1].sides[0].measures["exchanges"].value == 1.0


@pytest.mark.parametrize(
    ("changes", "against", "problem"),
    [
        ({"judges": []}, None, "judges: the tasks 'offline' have none"),
        ({"tasks": {"source": "offline", "metric": "blue"}}, None, "metric 'blue' is not one of the judges"),
        ({"tasks": [{"source": "offline"}, {"source": "offline"}]}, None, "tasks: 'offline' is there twice"),
        ({"tasks": {"source": "offline", "max_exchnges": 1}}, None, "unknown field; did you mean 'max_exchanges'?"),
        ({"tasks": {"source": "plain.jsonl"}}, None, "plain.jsonl: task 'a' has no metadata.agenda"),
        ({"judges": [{"name": "pass_rate"}]}, None, "has no metadata.tests (Python source) to run (judge pass_rate)"),
        ({}, {"seed": 3}, "seed must be the same as in"),
        ({}, {"tasks": {"source": "offline", "limit": 7}}, "tasks must be the same as in"),
        ({}, {"lookahead": {"max_exchanges": 9}}, "lookahead.max_exchanges must be the same as in"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(
    serve: Serve, tmp_path: Path, changes: dict[str, Any], against: Any, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server = serve()
    Path("plain.jsonl").write_text('{"id": "a", "goal": "b"}\n')
    arguments: list[str | Path] = ["--config", configuration(server, tmp_path, **changes), "--out", tmp_path / "out"]
    if against is not None:
        other = {"assistant": {"model": {"name": "openai:any", "base_url": server.url}}, **against}
        Path("other.yaml").write_text(yaml.safe_dump(other))
        arguments += ["--against", "other.yaml"]
    code, output, error = run("evaluate", *arguments)
    assert (code, output) == (1, "")
    assert error.startswith("error: ")
    assert problem in error
    assert error.count("\n") == 1
    assert server.stats()["answered"] == 0
    assert not (tmp_path / "out").exists()


def test_the_embedded_model_plain_and_proactive_gives_the_same_table_twice(tmp_path: Path) -> None:
    for name in ("plain", "proactive"):
        settings = yaml.safe_load((ROOT / "examples" / "evaluate" / f"{name}.yaml").read_text())
        settings["assistant"]["model"]["max_tokens"] = 16  # Shorter, for time.
        settings["lookahead"]["max_exchanges"] = 1
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    configs: list[str | Path] = ["--config", tmp_path / "proactive.yaml", "--against", tmp_path / "plain.yaml"]
    cards = []
    for name in ("one", "two"):
        code, output, error = run("evaluate", *configs, "--limit", "1", "--out", tmp_path / name)
        assert code == 0, error
        assert "difference" in output
        cards.append((tmp_path / name / "scorecard.json").read_text())
    assert cards[0] == cards[1]
    (result,) = Scorecard.model_validate_json(cards[0]).sets
    assert all(side.finished == 1 for side in result.sides)
    assert result.difference is not None
    plays = [
        {one.task.id: [message["content"] for message in one.messages] for one in read_trajectories(folder.parent)}
        for folder in sorted((tmp_path / "one").rglob("run.json"))
    ]
    assert len(plays) == 2
    assert plays[0].keys() == plays[1].keys()
    assert all(plays[0][task] != plays[1][task] for task in plays[0])


def test_judges_and_task_sets_are_listed_with_their_options() -> None:
    code, listing, _ = run("judges")
    assert code == 0
    for part in (
        "accuracy",
        "pass_rate",
        "all_or_nothing: false",
        "sandbox: bubblewrap",
        "wall_seconds: 60",
        "criteria (needed)",
    ):
        assert part in listing
    code, listing, _ = run("tasks")
    assert code == 0
    for part in (
        "offline",
        "mediumdocedit-chat",
        "repo: lighteval/MATH-Hard",
        "test_share: 0.55",
        "abg-coqa",
        "history: false",
    ):
        assert part in listing
