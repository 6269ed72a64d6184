"""The chat command in a process of its own: fed by a pipe, and at a real pseudo-terminal."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.process import Server
from collab_agents.cli.app import app
from collab_agents.errors import CollabError
from collab_agents.runs.directory import RunDirectory
from collab_agents.tasks import offline_tasks
from collab_agents.training.datasets import preference_rows
from collab_agents.trajectories import Trajectory, read_trajectories

Serve = Callable[..., Server]
COMMAND = [sys.executable, "-m", "collab_agents"]
TASK = offline_tasks()[0]


def config(url: str, folder: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "assistant": {"model": {"name": "openai:any", "base_url": url}},
        "user": {"kind": "agenda", "personas": [{"name": "patient", "patience": 99}]},
        "judges": [{"name": "fact_coverage"}, {"name": "token_cost", "options": {"rate": 0.001}}],
        "lookahead": {"candidates": 2, "futures": 2, "window": 1, "max_exchanges": 3, "proactive_ratio": 0.5},
        "limits": {"max_retries": 0},
        "tasks": {"source": "offline", "limit": 3},
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(settings | changes))
    return file


def run(words: str, *arguments: str | Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], input=words, capture_output=True, text=True, timeout=60, env=environment()
    )
    return done.returncode, done.stdout, done.stderr


def show(out: Path, task: str) -> str:
    return CliRunner().invoke(app, ["show", str(out), "--task", task]).stdout


def environment() -> dict[str, str]:
    return {**os.environ, "OPENAI_API_KEY": "", "TERM": "xterm"}


def said(trajectory: Trajectory) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in trajectory.messages]


def test_a_person_talks_to_the_assistant_and_the_sessions_are_kept(serve: Serve, tmp_path: Path) -> None:
    file, out = config(serve().url, tmp_path), tmp_path / "chat"
    words = "Hello \x1b[2Jthere\n\nIt is\\\nred.\n/quit\nnot said\n"
    code, output, error = run(words, "chat", "--config", file, "--out", out)
    assert (code, error) == (0, "")
    assert f"Your goal: {TASK.goal}" in output
    assert "\x1b" not in output
    (first,) = read_trajectories(out)
    assert [role for role, _ in said(first)] == ["user", "assistant"] * 2
    assert [words for role, words in said(first) if role == "user"] == ["Hello \x1b[2Jthere", "It is\nred."]
    for role, words in said(first):
        if role == "assistant":
            assert output.count(words.strip()) == 1, "each reply is shown once"
    assert (first.stopped, first.turns, first.persona) == ("user", [], None)
    assert first.reward is not None
    assert set(first.scores) == {"fact_coverage", "token_cost"}
    assert first.usage.calls == 2
    assert first.task.goal == TASK.goal
    assert first.task.metadata["session"]["task"] == TASK.id
    for row in ("reward", "fact_coverage", "token_cost"):
        assert re.search(rf"│ {row} +│ +-?\d\.\d", output)

    # Another session of the same task, which the exchanges end.
    code, output, _ = run("1\n2\n3\\\n", "chat", "--config", file, "--out", out, "--no-goal")
    assert code == 0
    assert TASK.goal not in output
    _, second = read_trajectories(out)
    assert (second.stopped, len(second.messages)) == ("max_turns", 6)
    assert second.task.id != first.task.id
    assert json.loads((out / "run.json").read_text())["totals"]["trajectories"] == 2
    assert "end: the exchanges ran out; reward" in show(out, second.task.id)


def test_a_person_answers_as_the_assistant_and_is_coached(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strict_judge.py").write_text(
        "from collab_agents.judges import Score\n"
        "async def judge(conversation, task):\n"
        "    odd = any('gibberish' in text for text in conversation.assistant_texts())\n"
        "    return Score(None, 'that is no language') if odd else Score(len(conversation.assistant_texts()[0]))\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    server = serve()
    file = config(server.url, tmp_path, judges=[{"name": "strict", "judge": "strict_judge:judge"}])
    out, words = tmp_path / "chat", "What is the occasion?\ngibberish\n"
    code, output, error = run(words, "chat", "--config", file, "--out", out, "--as", "assistant", "--coach")
    assert (code, error) == (0, "")
    assert TASK.goal not in output
    (session,) = read_trajectories(out)
    assert [role for role, _ in said(session)] == ["user", "assistant", "user", "assistant", "user"]
    for role, words in said(session):
        if role == "user":
            assert f"user: {words}" in output
    assert session.persona is not None
    assert len(session.turns) == 2
    for turn, reply in zip(session.turns, ["What is the occasion?", "gibberish"], strict=True):
        yours, *others = turn.candidates
        assert turn.chosen == 0
        assert yours.messages == [{"role": "assistant", "content": reply}]
        assert [len(one.futures) for one in turn.candidates] == [2, 2, 2]
        assert [one.proactive for one in others] == [False, True]
        assert turn.prompt == session.messages[: len(turn.prompt)]
        assert yours.futures[0].messages[0]["role"] == "user", "the simulated user goes on in the futures"
        assert all(f"{one.reward:.3f}" in output for one in others)
    assert session.turns[0].candidates[0].reward == len("What is the occasion?")
    assert re.search(r"│ yours +│ +21.000 │ +21.000 │ What is the occasion\? +│", output)
    assert re.search(r"│ yours +│ +- │ +- │ gibberish +strict: that is no language +│", output)
    assert server.stats()["calls"] == 1 + 2 * (2 + 3 * 2)
    # The person has left, not the user, and what was said is judged all the same.
    assert (session.stopped, session.reward, session.reasons) == (
        "interrupted",
        None,
        {"strict": "that is no language"},
    )
    assert re.search(r"│ strict +│ +- │ that is no language +│", output)


def test_the_coach_shows_what_the_assistant_chose_from(serve: Serve, tmp_path: Path) -> None:
    file, out = config(serve().url, tmp_path), tmp_path / "chat"
    code, output, error = run("one\ntwo\n/quit\n", "chat", "--config", file, "--out", out, "--coach")
    assert (code, error) == (0, "")
    (session,) = read_trajectories(out)
    assert [words for role, words in said(session) if role == "user"] == ["one", "two"]
    assert len(session.turns) == output.count("(chosen)") == 2
    for turn in session.turns:
        assert len(turn.candidates) == 2
        assert said(session)[len(turn.prompt)] == ("assistant", turn.candidates[turn.chosen].messages[0]["content"])
        for one in turn.candidates:
            assert f"{one.reward:.3f}" in output
    assert "chosen candidate" in show(out, session.task.id)
    assert len(preference_rows(read_trajectories(out))) == 2


def test_what_was_said_is_kept_when_the_model_fails(serve: Serve, tmp_path: Path) -> None:
    server, out = serve(), tmp_path / "chat"
    file = config(server.url, tmp_path)
    process = subprocess.Popen(
        [*COMMAND, "chat", "--config", str(file), "--out", str(out)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("Hello\n")
    process.stdin.flush()
    while not process.stdout.readline().startswith("assistant: "):
        assert process.poll() is None
    server.close()
    output, error = process.communicate("And now?\n", timeout=60)
    assert process.returncode == 1
    assert error.startswith("error: assistant: openai:any at ")
    assert error.count("\n") == 1
    (session,) = read_trajectories(out)
    assert [role for role, _ in said(session)] == ["user", "assistant", "user"]
    assert (session.stopped, session.reward) == ("interrupted", None)
    assert error == f"error: {session.reasons['token_cost']}\n"
    assert "Kept as" in output
    tree = show(out, session.task.id)
    assert "end: it was interrupted; reward none" in tree
    assert "not judged: assistant: openai:any at" in tree


NOWHERE = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("changes", "options", "problem"),
    [
        ({}, ["--task", "offline-train-01"], "has no such task among its 3; did you mean 'offline-train-001'?"),
        ({}, ["--task", "x"], "has no such task among its 3; the first is 'offline-train-000'"),
        ({"tasks": {"source": "plain.jsonl"}}, ["--as", "assistant"], "task 'a' has no metadata.agenda"),
        ({"judges": [{"name": "accuracy"}], "tasks": {"source": "plain.jsonl"}}, [], "task 'a' has no reference"),
        ({"tasks": {"source": "empty.jsonl"}}, [], "empty.jsonl has no tasks"),
        ({}, [], f"openai:any at {NOWHERE}: cannot connect"),
        (
            {"assistant": {"app": "collab_agents:HumanAssistant"}},
            [],
            "collab-agents chat --as assistant lets you be it",
        ),
        ({"user": {"kind": "collab_agents:HumanUser"}}, ["--as", "assistant"], "give a user that is simulated"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_said(
    tmp_path: Path, changes: dict[str, Any], options: list[str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain.jsonl").write_text('{"id": "a", "goal": "b"}\n')
    Path("empty.jsonl").write_text("")
    done = CliRunner().invoke(app, ["chat", "--config", str(config(NOWHERE, tmp_path, **changes)), *options])
    assert isinstance(done.exception, CollabError)
    assert problem in str(done.exception)
    assert done.output == ""
    assert not Path("runs").exists()


def test_a_directory_of_another_run_is_left_alone(serve: Serve, tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run", settings={"seed": 1}):
        pass
    file = config(serve().url, tmp_path)
    done = CliRunner().invoke(app, ["chat", "--config", str(file), "--out", str(tmp_path / "run")])
    assert isinstance(done.exception, CollabError)
    assert str(done.exception).startswith(f"{tmp_path / 'run'} was made with ")
    assert done.output == ""


PROMPT = r"you:\S* $"


class Typist:
    """Somebody at a terminal of their own."""

    def __init__(self, *arguments: str | Path) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execvpe(COMMAND[0], [*COMMAND, *map(str, arguments)], environment())
        self.screen = ""

    def see(self, pattern: str) -> str:
        """The screen, once the pattern is on it, or all of it when the process has ended."""
        deadline = time.monotonic() + 60
        while not re.search(pattern, self.screen):
            assert time.monotonic() < deadline, self.screen
            if select.select([self.terminal], [], [], 0.1)[0]:
                try:
                    self.screen += os.read(self.terminal, 4096).decode(errors="replace")
                except OSError:  # So a terminal ends.
                    break
        return self.screen

    def type(self, keys: str) -> None:
        self.screen = ""
        os.write(self.terminal, keys.encode())

    def end(self) -> int:
        """The exit code."""
        self.see("(?!)")
        os.close(self.terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_at_a_terminal_words_are_shown_as_they_come_and_ctrl_c_keeps_the_session(serve: Serve, tmp_path: Path) -> None:
    server = serve("--word-latency", "0.04")
    file, out = config(server.url, tmp_path), tmp_path / "chat"
    typist = Typist("chat", "--config", file, "--out", out)
    typist.see(PROMPT)
    typist.type("Hello\n")
    typist.see(PROMPT)
    typist.type("And then?\n")
    typist.see(r"assistant:\S* \w+ \w+")
    typist.type("\x03")  # In the middle of the reply, which is nowhere but on the screen yet.
    assert "Kept as" in typist.see("Kept as [^ ]+")
    assert typist.end() == 130
    (session,) = read_trajectories(out)
    assert [role for role, _ in said(session)] == ["user", "assistant", "user"]
    assert said(session)[2] == ("user", "And then?")
    assert len(said(session)[1][1].split()) == 60
    assert (session.stopped, session.reward) == ("interrupted", None)
    assert session.reasons == dict.fromkeys(session.scores, "the session was stopped")


def test_at_a_terminal_the_coach_shows_the_candidates_as_they_come(serve: Serve, tmp_path: Path) -> None:
    server = serve("--word-latency", "0.02")
    file, out = config(server.url, tmp_path), tmp_path / "chat"
    typist = Typist("chat", "--config", file, "--out", out, "--coach")
    assert "Each reply is the best of 2 candidates" in typist.see(PROMPT)
    typist.type("Hello\n")
    early = typist.see(r"(?s)1: \S*\w+ \w+.*2: \S*\w+ \w+")
    assert "assistant:" not in early
    assert "(reward" not in early
    typist.type("And then?\n")  # Typed ahead, and shown when it is said.
    screen = typist.see(r"(?s)\(chosen\).*you:\S* And then\?.*\(chosen\).*" + PROMPT)
    assert re.search(r"1 \(reward -\d\.\d+\): ", screen)
    assert screen.count("assistant:") == 2, "the candidates in the futures are not shown"
    typist.type("\x04")
    assert typist.end() == 0
    (session,) = read_trajectories(out)
    assert [words for role, words in said(session) if role == "user"] == ["Hello", "And then?"]


def test_sessions_at_several_terminals_are_kept_in_one_directory(serve: Serve, tmp_path: Path) -> None:
    file, out = config(serve().url, tmp_path), tmp_path / "chat"
    typists = [Typist("chat", "--config", file, "--out", out) for _ in range(2)]
    for typist in typists:
        typist.see(PROMPT)
        typist.type("Grüße\n")
    for typist in typists:
        typist.see(PROMPT)
    leaves, vanishes = typists
    leaves.type("\x04")
    os.close(vanishes.terminal)
    assert leaves.end() == 0
    os.waitpid(vanishes.pid, 0)
    sessions = list(read_trajectories(out))
    assert sorted(one.stopped for one in sessions) == ["interrupted", "user"]
    for one in sessions:
        assert said(one)[0] == ("user", "Grüße")
        assert len(one.messages) == 2
