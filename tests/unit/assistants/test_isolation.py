"""Simulation leaves the live app alone, and what cannot be executed is refused before anything real is done."""

import itertools
import threading
import warnings
from dataclasses import dataclass, field
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import PIIMiddleware
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_store
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, ToolRuntime
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from langgraph.store.sqlite.aio import AsyncSqliteStore
from langgraph.types import CachePolicy

from collab_agents import (
    GraphAssistant,
    Lookahead,
    ScriptedUser,
    create_lookahead_agent,
    create_rollout_graph,
    is_simulating,
    simulate_as,
)
from collab_agents.errors import ConfigError, RolloutError
from tests.support.app_shapes import Scripted
from tests.support.apps import CONTEXT, app_of, chosen, execute, paying, steps
from tests.support.plain_and_ahead import COST
from tests.support.reading import texts
from tests.support.tasks import party

LIVE: RunnableConfig = {"configurable": {"thread_id": "1"}}


async def roll_out(assistant: GraphAssistant, **lookahead: Any) -> Any:
    shape = Lookahead(candidates=2, futures=2, **lookahead)
    graph = create_rollout_graph(ScriptedUser(["a", "b", "c"]), assistant, COST, shape)
    end = await graph.ainvoke({"messages": [], "task": party()})
    assert all(one["error"] is None for turn in end["turns"] for one in turn["candidates"])
    return end


@pytest.mark.parametrize("first", ["plainly", "in a simulation"])
async def test_an_app_that_keeps_the_store_it_first_saw_keeps_the_live_one(first: str) -> None:
    store = InMemoryStore()
    kept: list[Any] = []

    async def work(state: MessagesState) -> dict[str, Any]:
        if not kept:
            kept.append(get_store())
        await kept[0].aput(("notes",), str(state["messages"][-1].content), {"text": "a note"})
        kept[0].put(("sync",), str(state["messages"][-1].content), {"text": "a note"})
        found = await kept[0].asearch(("notes",))
        return {"messages": [AIMessage(" ".join(item.key for item in found))]}

    app = app_of(work, store=store)
    if first == "plainly":
        await app.ainvoke({"messages": [HumanMessage("zero")]})
    before = [item.key for item in store.search(())]
    end = await roll_out(GraphAssistant(app))
    assert texts(end["messages"])[-1].split()[-3:] == ["a", "b", "c"]
    assert [item.key for item in store.search(())] == before
    out = await app.ainvoke({"messages": [HumanMessage("one")]})
    assert texts(out["messages"])[-1].split() == ["zero", "one"][first != "plainly" :]
    assert type(store).__name__ == "InMemoryStore"


async def test_a_store_of_a_database_is_left_alone_too() -> None:
    async with AsyncSqliteStore.from_conn_string(":memory:") as store:
        await store.setup()

        async def work(state: MessagesState, runtime: Runtime[Any]) -> dict[str, Any]:
            await store.aput(("notes",), str(state["messages"][-1].content), {"text": "a note"})
            found = await store.asearch(("notes",))
            return {"messages": [AIMessage(" ".join(sorted(item.key for item in found)))]}

        app = app_of(work, store=store)
        await app.ainvoke({"messages": [HumanMessage("zero")]})
        assistant = GraphAssistant(app)
        end = await roll_out(assistant, max_exchanges=2)
        assert texts(end["messages"])[-1] == "a b zero"
        assert [item.key for item in await store.asearch(())] == ["zero"]
        reply, _ = await execute(assistant, *await chosen(assistant))
        assert texts(reply) == ["mug zero"]
        assert sorted(item.key for item in await store.asearch(())) == ["mug", "zero"]


async def test_an_item_that_is_changed_in_place_is_changed_nowhere_else() -> None:
    store = InMemoryStore()
    store.put(("basket",), "1", {"things": []})

    def work(state: MessagesState, runtime: Runtime[Any]) -> dict[str, Any]:
        assert runtime.store
        things = runtime.store.get(("basket",), "1").value["things"]  # type: ignore[union-attr]
        things.append("mug")
        return {"messages": [AIMessage(str(len(things)))]}

    end = await roll_out(GraphAssistant(app_of(work, store=store)))
    assert {one["messages"][-1]["content"] for turn in end["turns"] for one in turn["candidates"]} == {"1"}
    item = store.get(("basket",), "1")
    assert item is not None
    assert item.value == {"things": []}


@dataclass
class Shop:
    basket: list[str] = field(default_factory=list)
    lock: Any = None


async def test_context_and_configurable_are_copied_for_each_branch_and_what_cannot_be_is_named_once() -> None:
    async def work(state: MessagesState, config: RunnableConfig, runtime: Runtime[Any]) -> dict[str, Any]:
        runtime.context.basket.append("mug")
        config["configurable"]["seen"].append("mug")
        return {"messages": [AIMessage(f"{len(runtime.context.basket)} {len(config['configurable']['seen'])}")]}

    shop, seen = Shop(lock=threading.Lock()), ["cup"]
    assistant = GraphAssistant(
        app_of(work, context=Shop), context=shop, config={"configurable": {"seen": seen, "lock": threading.Lock()}}
    )
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        end = await roll_out(assistant)
    assert {one["messages"][-1]["content"] for turn in end["turns"] for one in turn["candidates"]} == {"1 2"}
    assert (shop.basket, seen) == ([], ["cup"])
    told = [str(one.message) for one in warned if one.category is UserWarning]
    assert told == [
        f"app 'shop': {name} cannot be copied, so all candidates and futures share it and see each other's "
        "changes to it"
        for name in ("context.lock", "configurable.lock")
    ]
    # A reply that is executed has the real ones.
    bought: list[str] = []
    pay = simulate_as("would pay")(paying(bought))

    async def buy(state: MessagesState, runtime: Runtime[Any]) -> dict[str, Any]:
        runtime.context.basket.append(await pay.ainvoke({"what": "mug"}))
        return {"messages": [AIMessage(runtime.context.basket[-1])]}

    shop = Shop()
    assistant = GraphAssistant(app_of(buy, context=Shop), context=shop)
    await execute(assistant, *await chosen(assistant))
    assert (shop.basket, bought) == (["paid mug"], ["mug"])


@pytest.mark.parametrize("executed", [False, True])
async def test_a_cached_node_does_not_remember_a_simulation(executed: bool) -> None:
    done: list[str] = []
    pay = simulate_as("pretended")(paying(done))

    async def buy(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(await pay.ainvoke({"what": str(state["messages"][-1].content)}))]}

    graph = StateGraph(MessagesState)
    policy: Any = CachePolicy(key_func=lambda state: str(state["messages"][-1].content).encode())
    graph.add_node("buy", buy, cache_policy=policy)
    graph.add_edge(START, "buy")
    app = graph.compile(name="shop", cache=InMemoryCache())
    assistant = GraphAssistant(app)
    for _ in range(2):
        turn = await chosen(assistant)
        assert texts(turn[2]) == ["pretended"]
    if executed:
        assert texts((await execute(assistant, *turn))[0]) == ["paid mug"]
    out = await app.ainvoke({"messages": [HumanMessage("mug")]})
    assert texts(out["messages"]) == ["mug", "paid mug"]
    assert done == ["mug"], "called once, and from then on remembered"


async def test_a_real_tool_sees_the_state_that_a_plain_run_would_show_it_in_its_own_kind_of_node() -> None:
    seen: list[Any] = []

    class Audited(ToolNode):
        """Notes what goes through it."""

        async def _afunc(self, input: Any, config: RunnableConfig, runtime: Runtime[Any]) -> Any:
            seen.append("audited")
            return await super()._afunc(input, config, runtime)

    @tool
    async def pay(what: str, runtime: ToolRuntime[Any, Any]) -> str:
        """Pay for it."""
        seen.append([one.type for one in runtime.state["messages"]])
        return f"paid {what}"

    def build() -> Any:
        model = Scripted(script=steps("pay"))
        graph = StateGraph(MessagesState)
        graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
        graph.add_node("tools", Audited([pay]))
        graph.add_edge(START, "model")
        graph.add_conditional_edges("model", lambda state: "tools" if state["messages"][-1].tool_calls else END)
        graph.add_edge("tools", "model")
        return graph.compile(name="shop")

    await build().ainvoke({"messages": [HumanMessage("mug")]})
    plain, seen[:] = list(seen), []
    assistant = GraphAssistant(build(), simulate_tools={"pay": "pretended"})
    turn = await chosen(assistant)
    seen.clear()
    await execute(assistant, *turn)
    assert seen == plain == ["audited", ["human", "ai"]]


async def test_redacted_messages_do_not_come_back_unredacted_without_a_checkpointer() -> None:
    prompts: list[list[BaseMessage]] = []

    def script(messages: list[BaseMessage]) -> AIMessage:
        prompts.append(messages)
        return AIMessage("Noted.")

    app = create_agent(Scripted(script=script), [], middleware=[PIIMiddleware("email", strategy="redact")], name="shop")
    agent = create_lookahead_agent(
        GraphAssistant(app, rewrites_history=True), ScriptedUser(["and"] * 5), COST, agree=lambda texts: False
    )
    messages: list[BaseMessage] = []
    memory: Any = {}
    for words in ("I am ann@example.com", "Who am I?", "Really?"):
        end = await agent.ainvoke({"messages": [*messages, HumanMessage(words)], "assistant_memory": memory})
        messages, memory = end["messages"], end["assistant_memory"]
    assert len(prompts) > 9
    assert not any("ann@example.com" in str(one.content) for prompt in prompts for one in prompt)


def test_a_tool_that_hides_in_the_apps_own_code_is_refused_with_the_way_out() -> None:
    done: list[str] = []

    def work(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(paying(done).invoke({"what": "mug"}))]}

    with pytest.raises(
        ConfigError,
        match=r"simulate_tools: the app 'shop' has no tool 'pay': no ToolNode was found\. If it hides in the app's own "
        r"code, mark the tool with @simulate_as, or have it ask is_simulating\(\)",
    ):
        GraphAssistant(app_of(work), simulate_tools={"pay": "pretended"})


async def test_a_tool_that_hides_beside_one_that_was_found_is_not_run_in_a_simulation() -> None:
    done: list[str] = []
    hidden: dict[str, Any] = {}

    async def work(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(await hidden["tool"]().ainvoke({"what": "mug"}))]}

    graph = StateGraph(MessagesState)
    graph.add_node("work", work)
    graph.add_node("tools", ToolNode([paying(done)]))
    graph.add_edge(START, "work")
    hidden["tool"] = lambda: paying(done)
    assistant = GraphAssistant(graph.compile(name="shop"), simulate_tools={"pay": "pretended"})
    with pytest.raises(RolloutError, match=r"app 'shop'.*it calls the tool 'pay' where simulate_tools cannot reach it"):
        await assistant.respond([HumanMessage("mug")], {}, CONTEXT)
    assert done == []


async def test_a_node_that_decides_anew_does_not_do_what_was_not_chosen() -> None:
    done: list[str] = []
    pay = simulate_as("would pay")(paying(done))
    prices = itertools.count(1)

    async def decide(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(await pay.ainvoke({"what": f"{next(prices)} mugs"}))]}

    assistant = GraphAssistant(app_of(decide))
    turn = await chosen(assistant)
    with pytest.raises(
        RolloutError,
        match=r'app \'shop\'.*it would now call pay\(\{"what": "3 mugs"\}\), but in the simulation it called '
        r'pay\(\{"what": "2 mugs"\}\)',
    ):
        await execute(assistant, *turn)
    assert done == []


async def test_an_app_that_catches_the_interrupt_is_told_so() -> None:
    pay = simulate_as("would pay")(paying([]))

    async def careful(state: MessagesState) -> dict[str, Any]:
        try:
            return {"messages": [AIMessage(await pay.ainvoke({"what": "mug"}))]}
        except Exception:
            return {"messages": [AIMessage("It did not work.")]}

    with pytest.raises(RolloutError, match=r"app 'shop': the interrupt with which a tool is simulated did not reach"):
        await GraphAssistant(app_of(careful)).respond([HumanMessage("mug")], {}, CONTEXT)


async def test_nothing_real_is_done_for_a_thread_that_has_gone_on_or_on_top_of_what_was_only_simulated() -> None:
    done: list[str] = []
    app = create_agent(Scripted(script=steps("pay")), [paying(done)], checkpointer=InMemorySaver(), name="shop")
    assistant = GraphAssistant(app, simulate_tools={"pay": "pretended"})
    messages, memory = await assistant.fork(LIVE)
    asked = [*messages, HumanMessage("mug", id="1")]
    reply, after = await assistant.respond(asked, memory, CONTEXT)
    with pytest.raises(ConfigError, match="what was simulated cannot be committed: execute the reply first"):
        await assistant.commit(after)
    later = [*asked, *reply, HumanMessage("cup", id="2")]
    more, then = await assistant.respond(later, after, CONTEXT)
    with pytest.raises(ConfigError, match="the turns before this reply were simulated and not executed"):
        await assistant.execute(later, after, more, then)
    await app.ainvoke({"messages": [HumanMessage("a lamp")]}, LIVE)
    assert done == ["a lamp"]
    with pytest.raises(RolloutError, match="thread '1' has gone on since it was forked"):
        await assistant.execute(asked, memory, reply, after)
    assert done == ["a lamp"]


async def test_a_state_that_cannot_be_serialized_is_played_and_refused_where_a_tool_is_simulated() -> None:
    class Connected(MessagesState, total=False):
        connection: Any

    done: list[str] = []
    pay = simulate_as("would pay")(paying(done))

    async def connect(state: Connected) -> dict[str, Any]:
        return {"connection": threading.Lock()}

    async def work(state: Connected) -> dict[str, Any]:
        words = str(state["messages"][-1].content)
        return {"messages": [AIMessage(await pay.ainvoke({"what": words}) if "mug" in words else "Hello.")]}

    graph = StateGraph(Connected)
    graph.add_node("connect", connect)
    graph.add_node("work", work)
    graph.add_edge(START, "connect")
    graph.add_edge("connect", "work")
    assistant = GraphAssistant(graph.compile(name="shop"))
    reply, _ = await execute(assistant, *await chosen(assistant, "hi"))
    assert texts(reply) == ["Hello."]
    with pytest.raises(RolloutError, match="its state cannot be serialized, so what is simulated could not be"):
        await chosen(assistant, "mug")
    # A rollout executes nothing, and needs no more than the app does.
    end = await create_rollout_graph(
        ScriptedUser(["mug"]), assistant, COST, Lookahead(candidates=1, futures=1)
    ).ainvoke({"messages": [], "task": party()})
    assert texts(end["messages"])[1] == "would pay"
    assert done == []


async def test_a_graph_inside_with_threads_of_its_own_is_named() -> None:
    inner = create_agent(Scripted(script=steps()), [], checkpointer=InMemorySaver(), name="inner")

    async def work(state: MessagesState) -> dict[str, Any]:
        given: Any = {"messages": state["messages"]}
        return await inner.ainvoke(given, {"configurable": {"thread_id": "inner"}})

    with pytest.warns(UserWarning, match="app 'shop': its graph 'inner' has a checkpointer of its own, to which"):
        GraphAssistant(app_of(work))


async def test_a_store_that_is_sync_only_and_a_thread_with_a_number_for_an_id_are_committed_to(tmp_path: Any) -> None:
    with SqliteStore.from_conn_string(str(tmp_path / "store.sqlite")) as store:
        store.setup()

        @tool
        def pay(what: str, runtime: ToolRuntime[Any, Any]) -> str:
            """Pay for it."""
            assert runtime.store
            runtime.store.put(("paid",), what, {"what": what})
            return f"paid {what}"

        saver = InMemorySaver()
        app = create_agent(Scripted(script=steps("pay")), [pay], checkpointer=saver, store=store, name="shop")
        live: Any = {"configurable": {"thread_id": 42}}
        await app.ainvoke({"messages": [HumanMessage("a cup")]}, live)
        assistant = GraphAssistant(app, simulate_tools={"pay": "pretended"})
        messages, memory = await assistant.fork(live)
        assert len(messages) == 4
        asked = [*messages, HumanMessage("a mug", id="u")]
        _, after = await execute(assistant, asked, memory, *await assistant.respond(asked, memory, CONTEXT))
        assert [item.key for item in store.search(("paid",))] == ["a cup"]
        await assistant.commit(after)
        assert sorted(item.key for item in store.search(("paid",))) == ["a cup", "a mug"]
        assert len((await app.aget_state(live)).values["messages"]) == 8


async def test_an_app_may_give_the_same_answer_twice() -> None:
    class Asked(MessagesState, total=False):
        answer: str

    app = app_of(lambda state: {"answer": "yes"}, Asked, checkpointer=InMemorySaver())
    assistant = GraphAssistant(app, output_key="answer")
    end = await create_rollout_graph(
        ScriptedUser(["a", "b"]), assistant, COST, Lookahead(candidates=1, futures=1)
    ).ainvoke({"messages": [], "task": party()})
    assert texts(end["messages"]) == ["a", "yes", "b", "yes"]


async def test_what_simulates_a_tool_is_the_same_in_every_branch() -> None:
    pay = simulate_as({"things": []})(paying([]))

    async def work(state: MessagesState) -> dict[str, Any]:
        things = (await pay.ainvoke({"what": "mug"}))["things"]
        things.append("mug")
        return {"messages": [AIMessage(str(len(things)))]}

    end = await roll_out(GraphAssistant(app_of(work)))
    assert {one["messages"][-1]["content"] for turn in end["turns"] for one in turn["candidates"]} == {"1"}


async def test_a_simulation_inside_another_is_executed_with_the_outer_one() -> None:
    done: list[str] = []
    inner = GraphAssistant(
        create_agent(Scripted(script=steps("pay")), [paying(done)], name="shop"), simulate_tools={"pay": "pretended"}
    )
    agent = create_lookahead_agent(inner, ScriptedUser([]), COST, agree=lambda texts: False)
    outer = GraphAssistant(agent, input_key="messages")
    turn = await chosen(outer)
    assert (texts(turn[2])[-1], done) == ("It says: pretended", [])
    reply, _ = await execute(outer, *turn)
    assert (texts(reply)[-1], done) == ("It says: paid mug", ["mug"])
    assert not is_simulating()
