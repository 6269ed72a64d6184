"""Conversations without lookahead in a process that is killed go on at their turns, as if nothing had happened.

`test_cli` does the same with lookahead.
"""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from benchmarks.process import ROOT, Server
from collab_agents import ChatAssistant, LLMUser, MultiturnReward, load_chat_model, read_trajectories
from collab_agents.judges import token_cost
from collab_agents.runs import play_conversations
from collab_agents.trajectories import Trajectory
from tests.support.tasks import parties

TASKS, TURNS, CALLS_A_TURN = 8, 4, 2
PLAY = """
import asyncio, sys
from tests.integration.test_killed import play
asyncio.run(play(sys.argv[1], out=sys.argv[2], resume=True, checkpoints=sys.argv[3] or None))
"""


async def play(url: str, **options: Any) -> dict[str, Trajectory]:
    model = load_chat_model("openai:any", base_url=url)
    played = play_conversations(
        parties(TASKS),
        user=LLMUser(model),
        assistant=ChatAssistant(model),
        reward=MultiturnReward({"token_cost": token_cost()}),
        max_exchanges=TURNS,
        max_concurrency=3,
        **options,
    )
    return {one.task.id: one async for one in played}


def exchanges_kept(out: Path, checkpoints: str | None) -> Counter[str]:
    """How many exchanges each unfinished task has behind it, as far as the run kept them, by LangGraph's own savers."""

    async def read() -> Counter[str]:
        if checkpoints is None:
            async with AsyncSqliteSaver.from_conn_string(str(out / "checkpoints.sqlite")) as saver:
                states = [(one.config, one.checkpoint["channel_values"]) async for one in saver.alist(None)]
        else:
            async with AsyncPostgresSaver.from_conn_string(checkpoints) as shared:
                states = [(one.config, one.checkpoint["channel_values"]["state"]) async for one in shared.alist(None)]
        prefix = "" if checkpoints is None else json.loads((out / "run.json").read_text())["id"] + "/"
        threads = {config["configurable"]["thread_id"]: state.get("exchanges", 0) for config, state in states}
        return Counter({thread.removeprefix(prefix): exchanges for thread, exchanges in threads.items()})

    return asyncio.run(read())


@pytest.mark.parametrize("kept_in", ["a file", "PostgreSQL"])
def test_conversations_killed_again_and_again_end_as_if_nothing_had_happened(
    kept_in: str, serve: Callable[..., Server], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    checkpoints = None
    if kept_in == "PostgreSQL":
        checkpoints = request.getfixturevalue("postgres").address(request.getfixturevalue("database"))
    server, out = serve("--deterministic", "--latency", "0.02", "--jitter", "1"), tmp_path / "run"
    for _ in range(3):
        until = server.stats()["calls"] + 14
        process = subprocess.Popen([sys.executable, "-c", PLAY, server.url, str(out), checkpoints or ""], cwd=ROOT)
        while server.stats()["calls"] < until and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the kill came too late to leave work"
    finished = [one.task.id for one in read_trajectories(out)]
    kept = exchanges_kept(out, checkpoints)
    turns = len(finished) * TURNS + sum(count for task, count in kept.items() if task not in finished)
    assert turns > 0

    before = server.stats()["calls"]
    asyncio.run(play(server.url, out=out, resume=True, checkpoints=checkpoints))
    made = server.stats()["calls"] - before
    assert made <= (TASKS * TURNS - turns) * CALLS_A_TURN, "a finished turn was played again"
    assert len(list(read_trajectories(out))) == TASKS
    whole = asyncio.run(play(server.url))
    assert {one.task.id: one for one in read_trajectories(out)} == whole
