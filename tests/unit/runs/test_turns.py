"""A run keeps each finished turn: what it costs the disk, and how a run that is broken off goes on."""

import gc
import os
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from collab_agents import MultiturnReward, ScriptedUser, read_trajectories
from collab_agents._internal.seeds import derive_seed
from collab_agents.errors import RunDirectoryError
from collab_agents.graphs.conversation import create_conversation_graph
from collab_agents.judges import token_cost
from collab_agents.runs import play_conversations
from collab_agents.runs.directory import RunDirectory, read_failures, read_totals
from collab_agents.trajectories import Trajectory
from tests.support.participants import Counts, Tires
from tests.support.tasks import parties

COST = MultiturnReward({"token_cost": token_cost()})
TURNS = 4
LINES = ScriptedUser(["one", "two", "three", "four"])


async def play(tasks: Any, assistant: Any = None, **options: Any) -> dict[str, Trajectory]:
    defaults: dict[str, Any] = {"user": LINES, "assistant": assistant or Counts(), "reward": COST}
    played = play_conversations(tasks, max_exchanges=TURNS, **(defaults | options))
    return {one.task.id: one async for one in played}


async def test_on_a_slow_disk_what_many_tasks_hand_in_is_written_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: Counter[str] = Counter()
    connect, fsync = sqlite3.connect, os.fsync

    def count(statement: str) -> None:
        written["rows"] += statement.startswith("INSERT INTO checkpoints")
        if statement == "COMMIT":
            written["commits"] += 1
            time.sleep(0.02)

    def counting(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(count)
        return connection

    def slow_fsync(file: int) -> None:
        written["fsyncs"] += 1
        time.sleep(0.005)
        fsync(file)

    monkeypatch.setattr(sqlite3, "connect", counting)
    monkeypatch.setattr(os, "fsync", slow_fsync)
    done = await play(parties(60), out=tmp_path, max_concurrency=60)
    assert len(done) == len(list(read_trajectories(tmp_path))) == 60
    assert written["rows"] == 60 * (1 + TURNS)
    assert written["commits"] < 60 * (1 + TURNS + 1) / 4
    assert written["fsyncs"] < 60 / 2


@pytest.mark.parametrize("turn", range(1, TURNS + 1))
async def test_a_task_that_failed_goes_on_at_the_turn_in_which_it_failed(turn: int, tmp_path: Path) -> None:
    assert await play(parties(3), Tires(turn), out=tmp_path) == {}
    assert len(read_failures(tmp_path)) == 3
    rested = Tires(0)
    done = await play(parties(3), rested, out=tmp_path, resume=True)
    assert rested.calls == 3 * (TURNS - turn + 1)
    assert done == await play(parties(3), Tires(0))


async def test_a_task_whose_judge_failed_is_judged_again_and_not_played_again(tmp_path: Path) -> None:
    fails = True

    def judge(conversation: Any, task: Any) -> float:
        if fails:
            raise ValueError("no opinion")
        return 1.0

    reward = MultiturnReward({"judge": judge})
    assistant = Counts()
    await play(parties(2), assistant, reward=reward, out=tmp_path)
    fails = False
    before = assistant.calls
    done = await play(parties(2), assistant, reward=reward, out=tmp_path, resume=True)
    assert assistant.calls == before
    assert len(list(read_trajectories(tmp_path))) == 2
    assert all(one.stopped == "max_turns" for one in done.values())


async def test_a_run_whose_earlier_version_kept_every_step_goes_on_at_the_turn(tmp_path: Path) -> None:
    await play(parties(1), Tires(1), out=tmp_path)
    (task,) = parties(1)
    (tmp_path / "checkpoints.sqlite").unlink()
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.sqlite")) as saver:
        graph = create_conversation_graph(LINES, Tires(3), max_exchanges=TURNS, reward=COST, checkpointer=saver)
        begin: Any = {"messages": [], "task": task.model_dump(), "persona": None, "seed": derive_seed(0, task.id)}
        with pytest.raises(Exception, match="too tired"):
            await graph.ainvoke(begin, {"configurable": {"thread_id": task.id}}, durability="sync")
    rested = Tires(0)
    done = await play(parties(1), rested, out=tmp_path, resume=True)
    assert rested.calls == TURNS - 2
    assert done == await play(parties(1), Tires(0))


async def test_a_disk_that_fails_ends_the_run_in_one_sentence_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fsync, calls = os.fsync, 0

    def failing(file: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise OSError(5, "Input/output error")
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(RunDirectoryError, match=r"run/trajectories\.jsonl cannot be used: Input/output error; fix"):
            await play(parties(40), out=tmp_path / "run", max_concurrency=5)
    gc.collect()
    assert [record.message for record in caplog.records] == []
    kept = [one.task.id for one in read_trajectories(tmp_path / "run")]
    rest = await play(parties(40), out=tmp_path / "run", resume=True)
    assert 0 < len(kept) < 40
    assert sorted([*kept, *rest]) == sorted(task.id for task in parties(40))
    assert len(list(read_trajectories(tmp_path / "run"))) == 40


async def test_a_database_that_another_program_holds_is_named(tmp_path: Path) -> None:
    await play(parties(1), Tires(2), out=tmp_path)
    other = sqlite3.connect(tmp_path / "checkpoints.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunDirectoryError, match=r"checkpoints\.sqlite cannot be used: database is locked; fix that"):
        await play(parties(1), out=tmp_path, resume=True)
    other.close()
    assert len(await play(parties(1), out=tmp_path, resume=True)) == 1


def test_a_killed_run_whose_turns_are_gone_has_not_spent_less_than_nothing(tmp_path: Path) -> None:
    for calls in (10, 3):  # Neither attempt reaches its end.
        with RunDirectory(tmp_path, settings={}, resume=True) as run:
            run.begin({"calls": calls, "parts": {"user": {"m": {"calls": calls}}}})
    assert read_totals(tmp_path)["calls"] == 0
    assert read_totals(tmp_path)["parts"] == {"user": {"m": {"calls": 0}}}
