"""Whatever goes wrong while a run is recorded is told in one sentence, and costs nothing that is on the disk."""

import json
import math
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from collab_agents import ChatAssistant, MultiturnReward, Persona, Task, load_chat_model
from collab_agents.errors import ConfigError, ModelError, RunDirectoryError
from collab_agents.judges import Score, token_cost
from collab_agents.participants import AssistantContext, Memory, UserContext
from collab_agents.runs.directory import read_failures
from collab_agents.trajectories import read_trajectories
from collab_agents.users import ScriptedUser
from tests.support.participants import Counts
from tests.support.recording import Answer, completion, recording
from tests.support.runs import collect
from tests.support.tasks import parties

HALF = "party \ud83c"


class Says(Counts):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        return [AIMessage(self.text)], memory | {"said": self.text}


class SaysHalf:
    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: UserContext
    ) -> tuple[BaseMessage | None, Memory]:
        return HumanMessage(HALF), memory | {"said": HALF}


@pytest.mark.parametrize("whose", ["assistant", "user", "judge", "error", "model"])
async def test_half_a_character_costs_nothing(whose: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"out": tmp_path}
    if whose == "assistant":
        options["assistant"] = Says(HALF)
    if whose == "user":
        options["user"] = SaysHalf()
    if whose == "judge":
        options["reward"] = MultiturnReward({"judge": lambda conversation, task: Score(1.0, HALF)})
    if whose == "error":
        options["assistant"] = Counts(fail_on="number 1")
        options["reward"] = MultiturnReward({"judge": failing})
    with recording(lambda request: Answer(json.dumps(completion(HALF)))) as server:
        if whose == "model":
            options["assistant"] = ChatAssistant(load_chat_model("openai:any", base_url=server.url))
        done = await collect(parties(2), **options)
    if whose == "error":
        assert {failure.task.id for failure in read_failures(tmp_path)} == {"party-0", "party-1"}
        assert any("party \ufffd" in failure.error for failure in read_failures(tmp_path))
        return
    assert list(read_trajectories(tmp_path)) == list(done.values())
    assert len(done) == 2
    assert "\ufffd" in (tmp_path / "trajectories.jsonl").read_text()


def failing(conversation: Any, task: Task) -> float:
    raise ValueError(HALF)


async def test_a_resumed_run_with_other_tasks_or_personas_is_refused(tmp_path: Path) -> None:
    persona = Persona(name="ann", background="You are Ann.")
    await collect(parties(3), out=tmp_path, assistant=Counts(fail_on="number 1"), personas=[persona])
    before = (tmp_path / "trajectories.jsonl").read_bytes()
    other = [task.model_copy(update={"goal": "You want a poem."}) for task in parties(3)]
    for tasks, personas in (
        (other, [persona]),
        (other[1:2], [persona]),
        (list(parties(3)), [Persona(name="bob")]),
        (list(parties(3))[1:2], []),
    ):
        with pytest.raises(RunDirectoryError, match=r"task 'party-\d' or its persona has changed since the run began"):
            await collect(tasks, out=tmp_path, resume=True, personas=personas)
    assert (tmp_path / "trajectories.jsonl").read_bytes() == before
    rest = await collect(parties(3), out=tmp_path, resume=True, personas=[persona])
    assert list(rest) == ["party-1"]


DEEP = "[" * 100_000 + "]" * 100_000
BROKEN: dict[str, tuple[str, Any, str]] = {
    "a line that is no trajectory": ("trajectories.jsonl", '{"task": {}}\n', "1: it is not a trajectory"),
    "a line that is a list": ("trajectories.jsonl", "[1]\n", "1: expected an object, got '[1]'"),
    "a line without end": ("trajectories.jsonl", DEEP + "\n", "1: not a JSON line"),
    "a deep line": ("trajectories.jsonl", '{"task": ' + DEEP + "}\n", "1: not a JSON line"),
    "a failure of the wrong shape": ("failures.jsonl", '{"task": 1}\n', "failures.jsonl:1: task: "),
    "a run.json that is a list": ("run.json", "[]", "run.json was not written by a run"),
    "a run.json that is no JSON": ("run.json", "{", "run.json is not JSON"),
    "a deep run.json": ("run.json", DEEP, "run.json is not JSON"),
    "no run.json": ("run.json", None, "has trajectories and no run.json"),
    "a damaged database": ("checkpoints.sqlite", "nothing of a database" * 1000, "is not a database, or is damaged"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_run_is_one_sentence_and_nothing_is_overwritten(name: str, tmp_path: Path) -> None:
    await collect(parties(1), out=tmp_path)
    file, content, sentence = BROKEN[name]
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if "sqlite-" not in path.name}
    for resume in (True, *([False] if content is None else [])):
        with pytest.raises(RunDirectoryError) as error:
            await collect(parties(1), out=tmp_path, resume=resume)
        assert sentence in str(error.value)
        assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if "sqlite-" not in path.name} == before


async def test_a_link_in_a_runs_place_is_refused(tmp_path: Path) -> None:
    victim, out = tmp_path / "victim", tmp_path / "run"
    victim.write_text("mine")
    for name in ("trajectories.jsonl", "run.json.new", "checkpoints.sqlite"):
        out.mkdir()
        (out / name).symlink_to(victim)
        with pytest.raises(RunDirectoryError, match="is a symbolic link"):
            await collect(parties(1), out=out)
        assert victim.read_text() == "mine"
        shutil.rmtree(out)
    out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunDirectoryError, match="cannot be used as a run directory"):
        await collect(parties(1), out=out)


async def test_a_full_disk_ends_the_run_in_one_sentence_and_it_resumes(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(small)], check=True)
    try:
        with pytest.raises(RunDirectoryError, match=r"the disk is full; free some space and resume"):
            await collect(parties(200), out=small / "run")
        subprocess.run(["mount", "-o", "remount,size=60m", str(small)], check=True)
        kept = [one.task.id for one in read_trajectories(small / "run")]
        rest = await collect(parties(40), out=small / "run", resume=True)
        assert not set(kept) & set(rest)
        assert read_failures(small / "run") == []
        assert {*kept, *rest} == {task.id for task in parties(40)}
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.parametrize("metadata", [{"x": math.nan}, {"x": [math.inf]}, {"x": object()}])
async def test_metadata_that_is_not_json_is_refused_at_the_door(metadata: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task 'a': metadata is not JSON"):
        await collect([Task(id="a", goal="b", metadata=metadata)], out=tmp_path, user=ScriptedUser(["hi"]))


async def test_a_key_that_is_revoked_stops_the_run_after_a_few_tasks(tmp_path: Path) -> None:
    with recording() as server:
        model = load_chat_model("openai:any", base_url=server.url, api_key="sk-revoked")
        reward = MultiturnReward({"cost": token_cost()})
        options: dict[str, Any] = {"assistant": ChatAssistant(model), "reward": reward, "max_concurrency": 2}

        def revoked(request: Any) -> Answer:
            fine = len(server.requests) < 40
            return Answer(completion()) if fine else Answer({"error": {"message": "the key was revoked"}}, 401)

        server.answer = revoked
        with pytest.raises(ModelError, match=r"stopped after 3 tasks in a row, .* HTTP 401: the key was revoked"):
            await collect(parties(100), out=tmp_path, **options)
        # A task that has its replies already may be finished between two that fail.
        assert len(read_failures(tmp_path)) <= 6
        assert 0 < len(list(read_trajectories(tmp_path))) < 20
        server.answer = lambda request: Answer(completion())
        await collect(parties(20), out=tmp_path, resume=True, **options)
        assert len(list(read_trajectories(tmp_path))) >= 20


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        (
            {"finish_reason": "length", "message": {"role": "assistant", "content": ""}},
            "cut at its length before its first word",
        ),
        (
            {
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "pay", "arguments": "{}"}}],
                },
            },
            "the model calls tools (pay), but it has none",
        ),
    ],
)  # fmt: skip
async def test_a_turn_without_words_is_an_error_and_not_an_empty_turn(
    choice: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with recording(lambda request: Answer(completion(choice=choice))) as server:
        assistant = ChatAssistant(load_chat_model("openai:any", base_url=server.url))
        assert await collect(parties(1), assistant=assistant, out=tmp_path) == {}
    (failure,) = read_failures(tmp_path)
    assert sentence in failure.error


async def test_checkpoints_of_finished_tasks_are_given_back_to_the_disk(tmp_path: Path) -> None:
    await collect(parties(12), out=tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.glob("checkpoints.sqlite*")) < 100_000
    with sqlite3.connect(tmp_path / "checkpoints.sqlite") as database:
        assert database.execute("SELECT count(*) FROM checkpoints").fetchone() == (0,)
