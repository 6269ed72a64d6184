"""What goes wrong in a branch stays in it: exits, hung or blocking code, and results that come too late."""

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from collab_agents import (
    Budget,
    GraphAssistant,
    Lookahead,
    MultiturnReward,
    ScriptedUser,
    create_lookahead_agent,
    generate_trajectories,
)
from collab_agents.errors import RolloutError
from collab_agents.judges import Conversation, as_judge
from collab_agents.participants import UserContext
from collab_agents.runs.directory import read_failures
from collab_agents.tasks import Task
from tests.support.apps import CONTEXT, app_of
from tests.support.plain_and_ahead import COST
from tests.support.tasks import party

HELLO: Any = {"messages": [HumanMessage("Hello")]}


class Odd(BaseException):
    """No `Exception`."""


def fails_by(kind: str, *, how: str) -> Any:
    """An app that ends itself for one of its users, in a node, sync or async, in a tool, or in an agent it calls."""

    def end(words: str) -> None:
        if "bad" in words:
            raise {"exit": SystemExit(0), "exit with words": SystemExit("bye"), "odd": Odd("odd")}[kind]

    if how == "sync node":

        def work(state: MessagesState) -> dict[str, Any]:
            end(str(state["messages"][-1].content))
            return {"messages": [AIMessage("fine")]}

        return app_of(work)
    if how == "async node":

        async def awork(state: MessagesState) -> dict[str, Any]:
            await asyncio.sleep(0)
            end(str(state["messages"][-1].content))
            return {"messages": [AIMessage("fine")]}

        return app_of(awork)
    if how == "inner agent":
        inner = fails_by(kind, how="async node")

        async def ask(state: MessagesState) -> dict[str, Any]:
            came = await asyncio.gather(*(inner.ainvoke({"messages": state["messages"][-1:]}) for _ in range(2)))
            return {"messages": [came[0]["messages"][-1]]}

        return app_of(ask)

    @tool
    async def check(words: str) -> str:
        """Check it."""
        end(words)
        return "fine"

    def call(state: MessagesState) -> dict[str, Any]:
        words = str(state["messages"][-1].content)
        called = [{"name": "check", "args": {"words": words}, "id": f"c{number}"} for number in (0, 1)]
        return {"messages": [AIMessage("", tool_calls=called)]}

    graph = StateGraph(MessagesState)
    graph.add_node("work", call)
    graph.add_node("tools", ToolNode([check]))
    graph.add_node("say", lambda state: {"messages": [AIMessage("fine")]})
    for one, other in ((START, "work"), ("work", "tools"), ("tools", "say")):
        graph.add_edge(one, other)
    return graph.compile(name="shop")


@pytest.mark.parametrize("how", ["sync node", "async node", "inner agent", "tool"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [("exit", "it called sys.exit(0)"), ("exit with words", "it called sys.exit('bye')"), ("odd", "Odd")],
)
async def test_an_app_that_ends_itself_ends_its_own_branch(kind: str, reason: str, how: str, tmp_path: Path) -> None:
    tasks = [party(name).model_copy(update={"goal": name}) for name in ("good", "bad", "also good")]
    user = ScriptedUser(["{goal}"])
    played = generate_trajectories(
        tasks, user=user, assistant=GraphAssistant(fails_by(kind, how=how)), reward=COST, out=tmp_path
    )
    finished = [trajectory.task.id async for trajectory in played]
    assert sorted(finished) == ["also good", "good"]
    (failure,) = read_failures(tmp_path)
    assert failure.task.id == "bad"
    assert reason in failure.error
    assert "app 'shop', node" in failure.error or kind == "odd"


async def test_a_user_or_a_judge_that_ends_itself_ends_its_own_branch(tmp_path: Path) -> None:
    async def leaves(conversation: Conversation, task: Task) -> float:
        await asyncio.create_task(deeper(task))
        return 1.0

    async def deeper(task: Task) -> None:
        if task.id == "bad":
            sys.exit("the judge left")

    async def user(messages: Any, memory: Any, context: UserContext) -> Any:
        if context.task.id == "worse":
            await asyncio.gather(deeper(party("bad")))
        return (None if messages else "Hello"), memory

    played = generate_trajectories(
        [party("good"), party("bad"), party("worse")],
        user=user,
        assistant=GraphAssistant(app_of(lambda state: {"messages": [AIMessage("fine")]})),
        reward=MultiturnReward({"leaves": leaves}),
        out=tmp_path,
    )
    assert [trajectory.task.id async for trajectory in played] == ["good"]
    failures = {failure.task.id: failure.error for failure in read_failures(tmp_path)}
    assert set(failures) == {"bad", "worse"}
    assert all("it called sys.exit('the judge left')" in error for error in failures.values())


class Stubborn:
    """Nodes that take their time, whatever they are told."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.began: list[float] = []

    async def blocks(self, state: MessagesState) -> dict[str, Any]:
        self.began.append(time.monotonic())
        time.sleep(self.seconds)  # noqa: ASYNC251
        return {"messages": [AIMessage("late")]}

    async def swallows(self, state: MessagesState) -> dict[str, Any]:
        self.began.append(time.monotonic())
        until = time.monotonic() + self.seconds
        while (left := until - time.monotonic()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                continue
        return {"messages": [AIMessage("late")]}


@pytest.mark.parametrize("how", ["blocks", "swallows"])
async def test_a_result_after_the_limit_is_never_taken(how: str) -> None:
    node = Stubborn(1.0 if how == "blocks" else 5.0)
    assistant = GraphAssistant(app_of(getattr(node, how)), timeout=0.3)
    began = time.monotonic()
    with pytest.raises(RolloutError, match=r"app 'shop'.*: no reply within 0\.3 s"):
        await assistant.respond([HumanMessage("Hello")], {}, CONTEXT)
    assert how == "blocks" or time.monotonic() - began < 5.0


@pytest.mark.parametrize("how", ["blocks", "swallows"])
async def test_a_budget_is_kept_with_nodes_that_do_not_let_go(how: str) -> None:
    node = Stubborn(3.0 if how == "blocks" else 6.0)
    agent = create_lookahead_agent(
        GraphAssistant(app_of(getattr(node, how))),
        ScriptedUser(["a"]),
        COST,
        Lookahead(candidates=3, futures=2, window=1),
        budget=Budget(seconds=0.5, grace=0.5),
    )
    began = time.monotonic()
    with pytest.raises(RolloutError, match=r"there is no reply 0\.5 s after the time budget was spent"):
        await agent.ainvoke(HELLO)
    # What blocks the event loop can only be waited for, but once and not for each of the three candidates.
    assert time.monotonic() - began < (9.0 if how == "blocks" else 6.0)
    assert len(node.began) == (1 if how == "blocks" else 4)


async def test_what_an_app_starts_for_good_is_not_bound_by_the_turn_that_started_it() -> None:
    jobs: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue()
    workers: list[asyncio.Task[None]] = []

    async def work_for_good() -> None:
        while True:
            job = await jobs.get()
            job.set_result(await asyncio.create_task(asyncio.sleep(0, "done")))

    async def work(state: MessagesState) -> dict[str, Any]:
        if not workers:
            workers.append(asyncio.create_task(work_for_good()))
        job: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        jobs.put_nowait(job)
        return {"messages": [AIMessage(await job)]}

    app = app_of(work)
    await GraphAssistant(app, timeout=0.2).respond([HumanMessage("Hello")], {}, CONTEXT)
    await asyncio.sleep(0.3)
    out = await asyncio.wait_for(app.ainvoke(HELLO), 5)
    assert out["messages"][-1].content == "done"
    workers[0].cancel()


def test_a_sync_call_waits_for_nothing_that_hangs() -> None:
    def hangs(state: MessagesState) -> dict[str, Any]:
        time.sleep(20)
        return {"messages": [AIMessage("late")]}

    agent = create_lookahead_agent(
        GraphAssistant(app_of(hangs)), ScriptedUser(["a"]), COST, budget=Budget(seconds=0.3, grace=0.3)
    )
    began = time.monotonic()
    with pytest.raises(RolloutError, match=r"there is no reply 0\.3 s after the time budget was spent"):
        agent.invoke(HELLO)
    assert time.monotonic() - began < 15


async def test_a_judge_of_ones_own_has_a_limit() -> None:
    async def hangs(conversation: Conversation, task: Task) -> float:
        await asyncio.sleep(3600)
        return 1.0

    reward = MultiturnReward({"hangs": as_judge(hangs, timeout=0.2)})
    scored = await reward.score(Conversation([HumanMessage("Hello"), AIMessage("fine")]), party())
    assert (scored.value, scored.reason) == (None, "hangs: it did not answer within 0.2 s")


APP = """
import sys, threading, time
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

def work(state):
    words = str(state["messages"][0].content)
    if "hang" in words:
        time.sleep(3600)
    if "exit" in words:
        sys.exit(0)
    return {"messages": [AIMessage("fine")]}

graph = StateGraph(MessagesState)
graph.add_node("work", work)
graph.add_edge(START, "work")
app = graph.compile(name="shop")
"""


def test_a_run_of_an_app_that_exits_or_hangs_ends_with_an_error_code_and_keeps_the_rest(tmp_path: Path) -> None:
    (tmp_path / "my_app.py").write_text(textwrap.dedent(APP))
    tasks = [party(name).model_copy(update={"goal": name}) for name in ("fine", "exit", "hang", "good")]
    (tmp_path / "tasks.jsonl").write_text("".join(task.model_dump_json() + "\n" for task in tasks))
    config = {
        "assistant": {"app": "my_app:app", "options": {"timeout": 1}},
        "user": {"kind": "scripted", "lines": ["{goal}"]},
        "judges": [{"name": "token_cost"}],
        "lookahead": {"candidates": 2, "futures": 1, "window": 0, "max_exchanges": 1},
        "tasks": {"source": "tasks.jsonl"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "collab_agents", "generate", "--config", "run.yaml", "--out", "out"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert time.monotonic() - began < 40, "it does not wait for the thread that hangs"
    assert done.returncode == 1, done.stdout + done.stderr
    assert {failure.task.id for failure in read_failures(tmp_path / "out")} == {"exit", "hang"}
    assert (tmp_path / "out" / "trajectories.jsonl").read_text().count("\n") == 2
    assert "Traceback" not in done.stderr


async def test_the_task_factory_that_contains_exits_leaves_ordinary_tasks_alone() -> None:
    assistant = GraphAssistant(app_of(lambda state: {"messages": [AIMessage("fine")]}))
    await assistant.respond([HumanMessage("Hello")], {}, CONTEXT)
    task = asyncio.create_task(asyncio.sleep(0, "done"), name="mine")
    assert (task.get_name(), await task) == ("mine", "done")
    cancelled = asyncio.create_task(asyncio.sleep(3600))
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
