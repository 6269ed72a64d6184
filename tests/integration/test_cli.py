"""The commands `generate`, `show`, `init` and `graph`: what they print, kills and signals, and what is refused."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

import collab_agents
from benchmarks.process import Server
from collab_agents.tasks import offline_tasks
from collab_agents.trajectories import read_trajectories
from collab_agents.usage import Usage
from tests.support.commands import run, start, wait_for_turns

Serve = Callable[..., Server]
TASKS, TURNS, CALLS_A_TURN = 12, 3, 2 * (1 + 2 * 1)
"""A run of `config`: words at random never satisfy its patient users, so every conversation has every turn."""


def config(server: Server, folder: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "assistant": {"model": {"name": "openai:any", "base_url": server.url}},
        "user": {"kind": "agenda", "personas": [{"name": "patient", "patience": 99}]},
        "judges": [{"name": "fact_coverage"}, {"name": "token_cost", "options": {"rate": 0.001}}],
        "lookahead": {"candidates": 2, "futures": 2, "window": 1, "max_exchanges": TURNS},
        "limits": {"max_concurrency": 6},
        "tasks": {"source": "offline", "limit": TASKS},
        "seed": 3,
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(settings | changes))
    return file


def turns_kept(out: Path) -> Counter[str]:
    """How many turns each unfinished task has behind it, by its last checkpoint."""

    async def read() -> Counter[str]:
        kept: Counter[str] = Counter()
        async with AsyncSqliteSaver.from_conn_string(str(out / "checkpoints.sqlite")) as saver:
            async for one in saver.alist(None):
                thread = one.config["configurable"]["thread_id"]
                kept[thread] = max(kept[thread], len(one.checkpoint["channel_values"].get("turns", [])))
        return kept

    return asyncio.run(read())


def finished(out: Path) -> list[str]:
    return [one.task.id for one in read_trajectories(out)]


def test_a_run_killed_again_and_again_ends_as_if_nothing_had_happened(serve: Serve, tmp_path: Path) -> None:
    server = serve("--deterministic", "--latency", "0.03", "--jitter", "1")
    file, out = config(server, tmp_path), tmp_path / "run"
    chance = random.Random(time.time_ns())
    expected = {task.id for task in offline_tasks()[:TASKS]}
    kills = 0
    while kills < 3:
        process = start("generate", "--config", file, "--out", out, *(["--resume"] if kills else []))
        wait_for_turns(server, process, server.stats()["calls"] + chance.randint(10, 40))
        time.sleep(chance.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        assert len(set(finished(out))) == len(finished(out))
    before = finished(out)
    assert len(before) < TASKS, "the last kill came too late to leave work"

    kept = turns_kept(out)
    for task in before:
        kept.pop(task, None)
    needed = ((TASKS - len(before)) * TURNS - sum(kept.values())) * CALLS_A_TURN
    calls = server.stats()["calls"]
    code, output, error = run("generate", "--config", file, "--out", out, "--resume")
    assert (code, error) == (0, "")
    assert f"tasks {TASKS}/{TASKS}" in " ".join(output.split())
    assert Counter(finished(out)) == Counter(expected)
    assert all(len(one.turns) == TURNS for one in read_trajectories(out))
    made = server.stats()["calls"] - calls - 1  # One to check that the server answers.
    assert made <= needed, "a finished turn was played again"
    totals = json.loads((out / "run.json").read_text())["totals"]
    assert totals["turns"] == TASKS * TURNS
    assert sum(one.usage.calls for one in read_trajectories(out)) <= totals["calls"] <= server.stats()["calls"]
    assert sum(counts.calls for counts in Usage.of(totals).by_role().values()) == totals["calls"]

    whole = tmp_path / "whole"
    assert run("generate", "--config", file, "--out", whole)[0] == 0
    assert {one.task.id: one.turns for one in read_trajectories(whole)} == {
        one.task.id: one.turns for one in read_trajectories(out)
    }


@pytest.mark.parametrize(
    ("sent", "sigint", "code"),
    [
        (signal.SIGINT, signal.default_int_handler, 130),
        (signal.SIGTERM, signal.default_int_handler, 143),
        (signal.SIGTERM, signal.SIG_IGN, 143),  # As in the background of a script.
    ],
)
def test_a_signal_ends_it_cleanly_and_the_run_resumes(
    sent: signal.Signals, sigint: Any, code: int, serve: Serve, tmp_path: Path
) -> None:
    server = serve("--latency", "0.03")
    file, out = config(server, tmp_path), tmp_path / "run"
    before = signal.signal(signal.SIGINT, sigint)
    process = start("generate", "--config", file, "--out", out)
    signal.signal(signal.SIGINT, before)
    wait_for_turns(server, process, 60)
    if sigint is signal.SIG_IGN:
        process.send_signal(signal.SIGINT)  # Which does nothing.
        wait_for_turns(server, process, 80)
    process.send_signal(sent)
    _, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert error.split() == f"Stopped. Finished conversations are in {out}; continue with --resume.".split()
    assert json.loads((out / "run.json").read_text())["totals"]["calls"] > 0
    code, output, _ = run("generate", "--config", file, "--out", out, "--resume")
    assert code == 0
    assert f"tasks {TASKS}/{TASKS}" in " ".join(output.split())
    assert len(set(finished(out))) == len(finished(out)) == TASKS


def test_a_second_process_on_the_same_run_is_refused(serve: Serve, tmp_path: Path) -> None:
    server = serve("--latency", "0.05")
    file, out = config(server, tmp_path), tmp_path / "run"
    first = start("generate", "--config", file, "--out", out)
    wait_for_turns(server, first, 20)
    code, _, error = run("generate", "--config", file, "--out", out, "--resume")
    assert code == 1
    assert error == f"error: {out} is in use by another run; wait for it to end or choose another directory\n"
    first.send_signal(signal.SIGINT)
    first.communicate()


def test_generate_shows_how_it_went_and_show_prints_the_tree(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    file, out = config(server, tmp_path), tmp_path / "run"
    options = ("--limit", "3", "--seed", "9", "--max-concurrency", "2")
    code, output, error = run("generate", "--config", file, "--out", out, *options)
    assert (code, error) == (0, "")
    assert output.startswith("Playing 3 tasks: 2 candidates at each turn, 2 futures after each ...\n")
    assert re.search(r"tasks 3/3 \(0 under way, 0 failed\) +turns 9 +calls 55 \(.*/s\) +tokens [\d,]+", output)
    for row in ("3 new trajectories", "reward", "fact_coverage", "token_cost", "exchanges"):
        assert row in output
    settings = json.loads((out / "run.json").read_text())
    assert settings["config"]["seed"] == 9
    assert settings["config"]["limits"]["max_concurrency"] == 2
    assert settings["totals"]["trajectories"] == 3
    assert settings["totals"]["calls"] == server.stats()["calls"] == 55, "one of them to see that the server answers"

    code, whole, _ = run("show", out)
    assert code == 0
    for part in (
        "3 trajectories",
        "reward",
        "55 calls",
        "9 turns",
        "--task prints one of them as a tree: offline-train-",
    ):
        assert part in whole
    code, tree, _ = run("show", out, "--task", "offline-train-001")
    assert code == 0
    for part in ("task offline-train-001", "goal: ", "turn 3", "chosen candidate", "future 1: reward", "end: "):
        assert part in tree
    code, _, error = run("show", out, "--task", "none")
    assert (code, error) == (1, f"error: {out} has no finished trajectory of a task 'none'\n")

    code, brief, _ = run("show", out, "--task", "offline-train-001", "--turn", "2", "--brief")
    assert code == 0
    head, turn = re.split(r"turn 2(?:: the chosen candidate is the best with probability \d\.\d\d)?\n", brief)
    assert "goal: " in head
    assert "turn 1" not in head
    assert "turn 3" not in turn
    replies = re.findall(r"── assistant: .*$", turn, re.MULTILINE)
    assert len(replies) == 2 + 2 * 2
    assert all(len(reply) < 80 and reply.endswith("…") for reply in replies)
    code, _, error = run("show", out, "--task", "offline-train-001", "--turn", "4")
    assert (code, error) == (1, "error: --turn 4: offline-train-001 has 3 turns by lookahead\n")
    code, _, error = run("show", out, "--brief")
    assert (code, error) == (1, "error: --turn and --brief need --task, the trajectory to print\n")


def test_the_files_to_start_from_make_a_run(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, _ = run("init", "mine")
    assert code == 0
    assert [line.split("/")[-1] for line in output.splitlines()[:-1]] == sorted(os.listdir("mine"))
    assert run("init", "mine")[0] == 1
    monkeypatch.chdir(tmp_path / "mine")
    # As it is but for the model, for which another takes no time.
    here = Path("run.yaml").read_text().replace('"local:smollm2"', f'"openai:any", base_url: "{serve().url}"')
    Path("run.yaml").write_text(here)
    code, output, error = run("generate", "--config", "run.yaml", "--out", "runs/first")
    assert (code, error) == (0, "")
    assert "short_first_reply" in output
    assert sorted(finished(Path("runs/first"))) == ["invitation", "notice"]


def test_the_version_is_the_installed_one() -> None:
    code, output, _ = run("--version")
    assert (code, output) == (0, f"collab-agents {collab_agents.__version__}\n")
    assert collab_agents.__version__ == version("collab-agents")


@pytest.mark.parametrize("name", ["conversation", "lookahead", "rollout", "lookahead-agent"])
def test_the_graphs_are_printed_as_mermaid(name: str) -> None:
    code, drawing, _ = run("graph", name)
    assert code == 0
    inside = {
        "conversation": [],
        "lookahead": ["future"],
        "rollout": ["candidate", "future"],
        "lookahead-agent": ["deliberate", "future"],
    }
    assert "graph TD;" in drawing
    assert "simulated_user(simulated_user)" in drawing
    assert re.findall(r"subgraph (\w+)", drawing) == inside[name]


REMOTE = {"model": {"name": "openai:any", "base_url": "http://127.0.0.1:9/v1"}}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"assistant": {"model": "openai:gpt-4o-mini"}}, "set OPENAI_API_KEY"),
        ({"assistant": {"model": {"name": "openai:a", "api_key_env": "NO_SUCH_KEY"}}}, "set NO_SUCH_KEY"),
        ({"assistant": {"model": {"name": "openai:a", "options": {"openai_api_key": "sk"}}}}, "use api_key_env"),
        ({"judges": [{"name": "token_cost", "weight": float("nan")}]}, "judges.0.weight: input should be a finite"),
        ({"assistant": REMOTE}, "openai:any at http://127.0.0.1:9/v1: cannot connect"),
        ({"assistant": {"model": "opnai:a"}}, "did you mean 'openai'?"),
        ({"assistant": {"model": "local:./nowhere"}}, "the folder has no config.json"),
        ({"judges": [{"name": "blue"}]}, "there is no judge 'blue': choose from accuracy,"),
        ({"judges": []}, "judges: list should have at least 1 item"),
        ({"user": {"kind": "agenda", "personas": ["nobody"]}}, "there is no persona 'nobody'"),
        ({"user": {"kind": "llm"}}, "user.model: field required"),
        ({"user": {"kind": "scripted"}}, "user.lines: field required"),
        ({"user": {"kind": "agenda", "lines": ["a"], "model": "openai:a"}}, "user.lines: unknown field; user.model: "),
        (
            {"user": {"kind": "agneda"}},
            "user.kind: expected one of llm, agenda, scripted or module:attribute; did you",
        ),
        (
            {"judges": [{"name": "token_cost"}] * 2},
            "judges: 'token_cost' is there twice; give each a different name\n",
        ),
        ({"lookahead": {"windw": 3}}, "lookahead.windw: unknown field; did you mean 'window'?"),
        ({"lookahead": {"futures": 0}}, "lookahead.futures: input should be greater than 0, got '0'"),
        ({"limits": {"timeout": "soon"}}, "limits.timeout: input should be a valid number"),
        ({"tasks": {"source": "none.jsonl"}}, "give one of offline, mediumdocedit-chat,"),
        ({"tasks": {"source": "offline", "split": "tset"}}, "did you mean 'test'?"),
        ({"tasks": {"source": "broken.jsonl"}}, "broken.jsonl:1: goal: field required"),
        ({"tasks": {"source": "plain.jsonl"}}, "task 'a' has no metadata.agenda"),
        ({"sed": 1}, "sed: unknown field; did you mean 'seed'?"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(
    serve: Serve, tmp_path: Path, changes: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.chdir(tmp_path)
    Path("broken.jsonl").write_text('{"id": "a"}\n')
    Path("plain.jsonl").write_text('{"id": "a", "goal": "b"}\n')
    code, output, error = run("generate", "--config", config(server, tmp_path, **changes), "--out", tmp_path / "run")
    assert (code, output) == (1, "")
    assert error.startswith("error: ")
    assert problem in error
    assert error.count("\n") == 1
    assert server.stats()["answered"] <= 1
    assert not (tmp_path / "run").exists()


def test_several_problems_of_a_config_are_reported_together(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "assistant": {"model": "openai:x", "app": "a:b"},
                "user": {"kind": "agenda"},
                "judges": [{"name": "token_cost", "weight": "heavy"}],
                "lookahed": {},
                "tasks": {"source": "offline", "limit": 0},
            }
        )
    )
    code, _, error = run("generate", "--config", file, "--out", tmp_path / "run")
    assert code == 1
    for part in ("assistant: set either model or app", "judges.0.weight", "lookahed: unknown field", "tasks.limit"):
        assert part in error


def test_a_missing_or_broken_config_is_named(tmp_path: Path) -> None:
    code, _, error = run("generate", "--config", tmp_path / "none.yaml", "--out", tmp_path / "run")
    assert (code, error) == (1, f"error: {tmp_path / 'none.yaml'}: No such file or directory\n")
    (tmp_path / "bad.yaml").write_text("a: [1")
    code, _, error = run("generate", "--config", tmp_path / "bad.yaml", "--out", tmp_path / "run")
    assert code == 1
    assert "not YAML" in error
    assert error.count("\n") == 1
    (tmp_path / "bad.yaml").write_text('a: 1\nPASSWORD: "b: c')
    code, _, error = run("generate", "--config", tmp_path / "bad.yaml", "--out", tmp_path / "run")
    assert (code, error) == (1, f"error: {tmp_path}/bad.yaml:2: not YAML: found unexpected end of stream\n")


def test_a_run_with_failures_only_ends_with_an_error_code(serve: Serve, tmp_path: Path) -> None:
    server, out = serve("--error-rate", "1"), tmp_path / "run"
    file = config(server, tmp_path, tasks={"source": "offline", "limit": 2}, limits={"max_retries": 0})
    code, output, error = run("generate", "--config", file, "--out", out)
    assert (code, error) == (1, "")
    assert "2 failed: turn 1: no candidate could be scored: candidate 0: assistant: openai:any at" in output
    assert "HTTP 503: the server is overloaded" in output


def test_importing_the_package_is_light() -> None:
    probe = "import sys, collab_agents; print([m for m in ('torch', 'transformers', 'langgraph') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    public = "import collab_agents as c; print(all(getattr(c, name) for name in c.__all__))"
    done = subprocess.run([sys.executable, "-c", public], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
