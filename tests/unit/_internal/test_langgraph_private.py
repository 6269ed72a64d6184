"""The private names of LangGraph that this library uses exist, and do what it uses them for."""

from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import CachePolicy, Command, interrupt

from collab_agents._internal.langgraph_private import (
    CACHE,
    INTERRUPTED,
    Interceptor,
    can_be_resumed,
    intercept,
    pause_task,
)

AT: Any = {"configurable": {"thread_id": "1"}}


def one_node(work: Any, **options: Any) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("work", work, cache_policy=options.pop("cache_policy", None))
    graph.add_edge(START, "work")
    return graph.compile(**options)


def test_a_paused_task_runs_again_with_the_answers_it_was_given() -> None:
    seen: list[Any] = []

    def work(state: MessagesState) -> dict[str, Any]:
        seen.append(interrupt("first?"))
        if len(seen) == 1:
            pause_task("pause")
        return {"messages": [("ai", f"{seen[-1]} {interrupt('second?')}")]}

    saver = InMemorySaver()
    app = one_node(work, checkpointer=saver)
    out = app.invoke({"messages": [("user", "hi")]}, AT)
    out = app.invoke(Command(resume={out["__interrupt__"][0].id: "A"}), AT)
    assert [one.value for one in out["__interrupt__"]] == ["pause"]
    assert INTERRUPTED in {channel for writes in saver.writes.values() for _, channel, *_ in writes.values()}
    out = app.invoke(None, AT)
    assert [one.value for one in out["__interrupt__"]] == ["second?"]
    out = app.invoke(Command(resume={out["__interrupt__"][0].id: "B"}), AT)
    assert out["messages"][-1].content == "A B"


def test_a_graph_knows_whether_it_can_be_resumed() -> None:
    def work(state: MessagesState) -> dict[str, Any]:
        return {"messages": [("ai", str(can_be_resumed()))]}

    for saver in (None, InMemorySaver()):
        assert one_node(work, checkpointer=saver).invoke({"messages": []}, AT)["messages"][-1].content == str(
            bool(saver)
        )


def test_a_run_uses_the_cache_it_is_handed() -> None:
    calls: list[int] = []

    def work(state: MessagesState) -> dict[str, Any]:
        calls.append(1)
        return {"messages": [("ai", "fine")]}

    app = one_node(work, cache=InMemoryCache(), cache_policy=CachePolicy(key_func=lambda state: b"1"))
    other = InMemoryCache[Any]()
    for cache in (None, None, other, other):
        app.invoke({"messages": []}, {"configurable": {CACHE: cache} if cache else {}})
    assert len(calls) == 2, "once for each cache"


async def test_a_tool_node_asks_about_each_call_once_in_both_ways() -> None:
    asked: list[str] = []

    class Asking(Interceptor):
        def begin(self, node: ToolNode, name: str, arguments: Any) -> None:
            asked.append(f"begin {name}")

        def run(self, request: Any, execute: Any) -> Any:
            asked.append("run")
            return execute(request)

        async def arun(self, request: Any, execute: Any) -> Any:
            asked.append("arun")
            return await execute(request)

    @tool
    def pay(what: str) -> str:
        """Pay for it."""
        return f"paid {what}"

    node = ToolNode([pay])
    for _ in range(2):
        intercept(node, Asking())

    given = {"messages": [AIMessage("", tool_calls=[{"name": "pay", "args": {"what": "mug"}, "id": "1"}])]}
    app = one_node(node)
    assert app.invoke(given)["messages"][-1].content == "paid mug"
    assert (await app.ainvoke(given))["messages"][-1].content == "paid mug"
    assert asked == ["begin pay", "run", "begin pay", "arun"]
