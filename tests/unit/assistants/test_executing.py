"""Executing a simulated reply: every real tool runs once, inside the app, and only then."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, ToolRuntime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, interrupt

from benchmarks.process import Server
from collab_agents import (
    GraphAssistant,
    Lookahead,
    MultiturnReward,
    ScriptedUser,
    create_conversation_graph,
    create_lookahead_agent,
    is_simulating,
    load_chat_model,
    simulate_as,
)
from collab_agents.errors import RolloutError
from collab_agents.judges import token_cost
from tests.support.apps import CONTEXT, chosen, execute
from tests.support.reading import texts
from tests.support.tasks import party

COST = MultiturnReward({"cost": token_cost()})


class Shop(MessagesState):
    cart: Annotated[list[str], lambda old, new: (old or []) + new]


class Who(TypedDict):
    who: str


def shop(tools: list[Any], *, calls: int = 1, nodes: Any = ToolNode, **compiled: Any) -> Any:
    """An app that calls its first tool with the user's words, so many times at once, and says what came of it."""

    def model(state: Shop) -> dict[str, Any]:
        last = state["messages"][-1]
        if last.type != "human":
            return {"messages": [AIMessage(f"It says: {last.content}")]}
        name = getattr(tools[0], "name", "pay")
        called = [{"name": name, "args": {"what": f"{last.content}{n or ''}"}, "id": f"c{n}"} for n in range(calls)]
        return {"messages": [AIMessage("", tool_calls=called)]}

    graph = StateGraph(Shop, context_schema=Who)
    graph.add_node("model", model)
    graph.add_node("tools", nodes(tools))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", lambda state: "tools" if state["messages"][-1].tool_calls else END)
    graph.add_edge("tools", "model")
    return graph.compile(name="shop", **compiled)


async def test_a_real_tool_has_the_apps_thread_state_store_and_context_and_what_it_does_is_kept() -> None:
    seen: list[Any] = []

    @tool
    def buy(what: str, id: Annotated[str, InjectedToolCallId], runtime: ToolRuntime[Any, Any]) -> Command[Any]:
        """Buy it."""
        seen.append((runtime.config["configurable"]["thread_id"], runtime.context, runtime.state["cart"]))
        assert runtime.store is not None
        runtime.store.put(("bought",), what, {"what": what})
        return Command(update={"cart": [what], "messages": [ToolMessage(f"bought {what}", tool_call_id=id)]})

    store = InMemoryStore()
    app = shop([buy], checkpointer=InMemorySaver(), store=store)
    live: Any = {"configurable": {"thread_id": "customer 42"}}
    await app.ainvoke({"messages": [HumanMessage("cup")]}, live, context={"who": "Ann"})
    assistant = GraphAssistant(app, simulate_tools={"buy": lambda what: f"bought {what}"}, context={"who": "Ann"})
    messages, memory = await assistant.fork(live)
    asked = [*messages, HumanMessage("mug")]
    reply, after = await assistant.respond(asked, memory, CONTEXT)
    assert seen == [("customer 42", {"who": "Ann"}, [])]

    reply, after = await execute(assistant, asked, memory, reply, after)
    assert seen[1:] == [("customer 42", {"who": "Ann"}, ["cup"])]
    assert texts(reply) == ["", "bought mug", "It says: bought mug"]
    assert assistant.state_of(after) == {"cart": ["cup", "mug"]}
    assert [item.key for item in store.search(("bought",))] == ["cup"]
    after = await assistant.commit(after)
    assert sorted(item.key for item in store.search(("bought",))) == ["cup", "mug"]
    assert (await app.aget_state(live)).values["cart"] == ["cup", "mug"]
    messages, _ = await assistant.fork(live)
    assert len(messages) == 8


async def test_after_an_answered_interrupt_a_tool_is_run_once() -> None:
    done: list[str] = []

    @tool
    def pay(what: str) -> str:
        """Pay for it."""
        done.append(what)
        return f"paid {what}"

    graph = StateGraph(MessagesState)
    call = {"name": "pay", "args": {"what": "mug"}, "id": "c"}
    graph.add_node("model", lambda state: {"messages": [AIMessage("", tool_calls=[call])]})
    graph.add_node("ask", lambda state: interrupt("Shall I?") and None)
    graph.add_node("tools", ToolNode([pay]))
    graph.add_node("say", lambda state: {"messages": [AIMessage(f"It says: {state['messages'][-1].content}")]})
    for one, other in ((START, "model"), ("model", "ask"), ("ask", "tools"), ("tools", "say")):
        graph.add_edge(one, other)
    app = graph.compile(name="shop", checkpointer=InMemorySaver())
    assistant = GraphAssistant(app, simulate_tools={"pay": "would pay"}, interrupts="user")
    messages, memory, reply, after = await chosen(assistant)
    assert texts(reply) == ["", "Shall I?"]
    messages, memory = [*messages, *reply, HumanMessage("yes")], after
    reply, after = await assistant.respond(messages, memory, CONTEXT)
    assert (texts(reply), done) == (["would pay", "It says: would pay"], [])
    reply, after = await execute(assistant, messages, memory, reply, after)
    assert (texts(reply), done) == (["paid mug", "It says: paid mug"], ["mug"])


async def test_inside_a_simulation_nothing_is_performed() -> None:
    done: list[str] = []

    @tool
    def pay(what: str) -> str:
        """Pay for it."""
        done.append(what)
        return f"paid {what}"

    inner = GraphAssistant(shop([pay]), simulate_tools={"pay": "would pay"})
    agent = create_lookahead_agent(inner, ScriptedUser([]), COST, agree=lambda replies: False)
    graph = create_conversation_graph(ScriptedUser(["a", "b"]), GraphAssistant(agent, input_key="messages"))
    end = await graph.ainvoke({"messages": [], "task": party()})
    assert texts(end["messages"])[-1] == "It says: would pay"
    assert done == []
    await agent.ainvoke({"messages": [HumanMessage("c")]})
    assert done == ["c"]


async def test_an_execution_that_fails_goes_on_from_there_and_does_nothing_twice() -> None:
    done: list[str] = []
    working = False

    @tool
    def pay(what: str) -> str:
        """Pay for it."""
        if what == "mug1" and not working:
            raise OSError("gateway down")
        done.append(what)
        return f"paid {what}"

    def model(state: MessagesState) -> dict[str, Any]:
        paid = sum(message.type == "tool" for message in state["messages"])
        if paid == 3:
            return {"messages": [AIMessage("All paid.")]}
        call = {"name": "pay", "args": {"what": f"mug{paid}"}, "id": f"c{paid}"}
        return {"messages": [AIMessage("", tool_calls=[call])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", model)
    graph.add_node("tools", ToolNode([pay], handle_tool_errors=False))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", lambda state: "tools" if state["messages"][-1].tool_calls else END)
    graph.add_edge("tools", "model")
    assistant = GraphAssistant(graph.compile(name="shop"), simulate_tools={"pay": lambda what: f"paid {what}"})
    agent = create_lookahead_agent(
        assistant, ScriptedUser([]), COST, agree=lambda replies: False, checkpointer=InMemorySaver()
    )
    at: Any = {"configurable": {"thread_id": "1"}}
    for asked in ({"messages": [HumanMessage("three mugs")]}, None):
        with pytest.raises(RolloutError, match=r"^execute: app 'shop', node 'tools': OSError: gateway down"):
            await agent.ainvoke(asked, at)
        assert done == ["mug0"]
    working = True
    end = await agent.ainvoke(None, at)
    assert done == ["mug0", "mug1", "mug2"]
    assert texts(end["messages"])[2::2] == ["paid mug0", "paid mug1", "paid mug2"]


async def test_a_turn_that_ends_with_a_tools_result_ends_with_the_real_one() -> None:
    @tool(return_direct=True)
    def book(what: str) -> str:
        """Book it."""
        return f"really booked {what}"

    graph = StateGraph(MessagesState)
    call = {"name": "book", "args": {"what": "mug"}, "id": "c"}
    graph.add_node("model", lambda state: {"messages": [AIMessage("", tool_calls=[call])]})
    graph.add_node("tools", ToolNode([book]))
    graph.add_edge(START, "model")
    graph.add_edge("model", "tools")
    assistant = GraphAssistant(graph.compile(name="shop"), simulate_tools={"book": "would book"})
    reply, _ = await execute(assistant, *await chosen(assistant))
    assert texts(reply) == ["", "really booked mug"]


@pytest.mark.parametrize("how", ["marked", "by itself"])
async def test_a_tool_that_a_node_calls_in_its_own_code_is_simulated_and_then_called_once(how: str) -> None:
    done: list[str] = []

    @tool
    async def pay(what: str) -> str:
        """Pay for it."""
        if how == "by itself" and is_simulating():
            return f"would pay {what}"
        done.append(what)
        return f"paid {what}"

    called: Any = simulate_as(lambda what: f"would pay {what}")(pay) if how == "marked" else pay

    async def work(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(await called.ainvoke({"what": str(state["messages"][-1].content)}))]}

    graph = StateGraph(MessagesState)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    compiled = graph.compile(name="shop")

    async def plainly(given: Any) -> str:
        return str(await called.ainvoke({"what": given["messages"][-1].content}))

    for app in (compiled, RunnableLambda(plainly)):
        assistant = GraphAssistant(app)
        turn = await chosen(assistant)
        assert (texts(turn[2])[-1:], done) == (["would pay mug"], [])
        reply, _ = await execute(assistant, *turn)
        assert (texts(reply)[-1:], done) == (["paid mug"], ["mug"])
        await app.ainvoke({"messages": [HumanMessage("mug")]})
        assert done == ["mug", "mug"]
        done.clear()


@pytest.mark.parametrize("saver", [None, InMemorySaver()])
async def test_a_task_of_the_functional_api_is_not_repeated(saver: Any) -> None:
    done: list[str] = []
    asked: list[int] = []

    @tool
    async def really_pay(what: str) -> str:
        """Pay for it."""
        done.append(what)
        return f"paid {what}"

    pay = simulate_as("would pay")(really_pay)

    @task
    async def model(number: int) -> str:
        asked.append(number)
        return f"{len(asked)} mugs"

    @entrypoint(checkpointer=saver)
    async def shop(state: dict[str, Any]) -> dict[str, Any]:
        words = await pay.ainvoke({"what": await model(len(state["messages"]))})
        return {"messages": [*state["messages"], AIMessage(words)]}

    assistant = GraphAssistant(shop)
    turn = await chosen(assistant)
    assert texts(turn[2]) == ["would pay"]
    reply, _ = await execute(assistant, *turn)
    assert (texts(reply), done, asked) == (["paid 1 mugs"], ["1 mugs"], [1])


async def test_the_apps_own_wrappers_of_tools_hold_in_a_simulation() -> None:
    @tool
    def pay(what: str) -> str:
        """Pay for it."""
        return f"paid {what}"

    async def capped(request: Any, execute: Any) -> Any:
        return await execute(request.override(tool_call={**request.tool_call, "args": {"what": "one mug at most"}}))

    app = shop([pay], nodes=lambda tools: ToolNode(tools, awrap_tool_call=capped))
    assistant = GraphAssistant(app, simulate_tools={"pay": lambda what: f"paid {what}"})
    _, _, reply, _ = await chosen(assistant, "100 mugs")
    assert texts(reply)[1] == "paid one mug at most"
    assert reply[1].additional_kwargs == {"simulated": True}


def failing_once(error: BaseException) -> Callable[[], None]:
    """Raises the error in the second call of a real execution."""
    left = [error]

    def fail() -> None:
        if not is_simulating() and left:
            raise left.pop()

    return fail


class BrokenStore(InMemoryStore):
    """Cannot be written to at first."""

    __slots__ = ("broken",)

    async def abatch(self, ops: Any) -> Any:
        given = list(ops)
        if getattr(self, "broken", False) and any(type(op).__name__ == "PutOp" for op in given):
            self.broken = False
            raise OSError("disk full")
        return await super().abatch(given)


@pytest.mark.parametrize(
    ("what", "forked"),
    [
        *((what, forked) for what in ("policy", "output_key", "store") for forked in (False, True)),
        ("policy, without a saver", False),
    ],
)
async def test_whatever_fails_after_a_real_tool_ran_it_is_not_called_again(what: str, forked: bool) -> None:
    done: list[str] = []
    fail = failing_once(ValueError("not now"))
    store = BrokenStore()

    @tool
    async def pay(what: str, runtime: ToolRuntime[Any, Any]) -> str:
        """Pay for it."""
        done.append(what)
        assert runtime.store
        await runtime.store.aput(("paid",), what, {"what": what})
        return f"paid {what}"

    graph = StateGraph(MessagesState)
    call = {"name": "pay", "args": {"what": "mug"}, "id": "c"}
    graph.add_node("model", lambda state: {"messages": [AIMessage("", tool_calls=[call])]})
    graph.add_node("tools", ToolNode([pay]))
    graph.add_node("ask", lambda state: interrupt("Was it right?") and None)
    graph.add_node("say", lambda state: {"messages": [AIMessage(f"It says: {state['messages'][-1].content}")]})
    for one, other in ((START, "model"), ("model", "tools"), ("tools", "ask"), ("ask", "say")):
        graph.add_edge(one, other)
    saver = None if what.endswith("without a saver") else InMemorySaver()
    app = graph.compile(name="shop", checkpointer=saver, store=store)

    def policy(value: Any) -> str:
        if what.startswith("policy"):
            fail()
        return "yes"

    def output(state: Any) -> Any:
        if what == "output_key" and any(str(one.content).startswith("It says: paid") for one in state["messages"]):
            fail()
        return state["messages"][-1].content

    assistant = GraphAssistant(
        app,
        simulate_tools={"pay": "pretended"},
        interrupts=policy,
        output_key=output if what == "output_key" else None,
    )
    agent = create_lookahead_agent(
        assistant, ScriptedUser([]), COST, agree=lambda replies: False, checkpointer=InMemorySaver()
    )
    at: Any = {"configurable": {"thread_id": "1"}}
    memory: Any = {}
    if forked:
        _, memory = await assistant.fork({"configurable": {"thread_id": "live"}})
    store.broken = what == "store" and not forked
    asked: Any = {"messages": [HumanMessage("a mug")], "assistant_memory": memory}
    if what != "store" or not forked:
        with pytest.raises(RolloutError, match=r"^execute: app 'shop'.*(not now|disk full)"):
            await agent.ainvoke(asked, at)
        asked = None
    end = await agent.ainvoke(asked, at)
    assert (texts(end["messages"])[-1], done) == ("It says: paid mug", ["mug"])
    memory = end["assistant_memory"]
    if forked:
        store.broken = what == "store"
        if store.broken:
            with pytest.raises(OSError, match="disk full"):
                await assistant.commit(memory)
        await assistant.commit(memory)
        assert (await app.aget_state({"configurable": {"thread_id": "live"}})).values["messages"][-1].type == "ai"
    assert [item.key for item in store.search(("paid",))] == ["mug"]


async def test_what_asks_whether_it_is_simulated_and_a_simulated_tool_work_together() -> None:
    done: list[str] = []

    @tool
    async def notify(receipt: str) -> str:
        """Tell the customer."""
        done.append(f"notified of {receipt}")
        return "notified"

    def charge(state: MessagesState) -> dict[str, Any]:
        if not is_simulating():
            done.append("charged")
        receipt = "pretended" if is_simulating() else "4711"
        return {"messages": [AIMessage("", tool_calls=[{"name": "notify", "args": {"receipt": receipt}, "id": "n"}])]}

    graph = StateGraph(MessagesState)
    graph.add_node("charge", charge)
    graph.add_node("tools", ToolNode([notify]))
    graph.add_edge(START, "charge")
    graph.add_edge("charge", "tools")
    assistant = GraphAssistant(graph.compile(name="shop"), simulate_tools={"notify": "would notify"})
    reply, _ = await execute(assistant, *await chosen(assistant))
    assert (texts(reply)[-1], done) == ("notified", ["charged", "notified of 4711"])


@pytest.mark.parametrize("kind", ["node", "function"])
async def test_a_node_that_samples_and_calls_tools_itself_samples_the_same_when_it_is_executed(
    kind: str, serve: Callable[..., Server]
) -> None:
    model = load_chat_model("openai:any", base_url=serve("--deterministic").url)
    done: list[str] = []

    @tool
    async def really_pay(what: str) -> str:
        """Pay for it."""
        done.append(what)
        return f"paid {what}"

    pay = simulate_as(lambda what: f"would pay {what}")(really_pay)

    async def work(state: Any) -> dict[str, Any]:
        said = await model.ainvoke(state["messages"])
        words = await pay.ainvoke({"what": str(said.content)})
        return {"messages": [*([] if kind == "node" else state["messages"]), AIMessage(words)]}

    graph = StateGraph(MessagesState)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    app: Any = graph.compile(name="shop") if kind == "node" else RunnableLambda(work)
    agent = create_lookahead_agent(
        GraphAssistant(app),
        ScriptedUser([]),
        COST,
        Lookahead(candidates=2, futures=2, window=1),
        agree=lambda replies: False,
    )
    end = await agent.ainvoke({"messages": [HumanMessage("a mug")]})
    told = end["lookahead"]["candidates"][end["lookahead"]["chosen"]]["messages"][-1]["content"]
    assert texts(end["messages"])[-1] == told.replace("would pay", "paid")
    assert len(done) == 1


async def test_arguments_that_a_wrapper_adds_may_differ_when_it_is_executed() -> None:
    done: list[Any] = []

    @tool
    async def pay(what: str, key: str = "none") -> str:
        """Pay for it."""
        done.append((what, key))
        return f"paid {what}"

    async def with_key(request: Any, call: Any) -> Any:
        arguments = {**request.tool_call["args"], "key": uuid4().hex}
        return await call(request.override(tool_call={**request.tool_call, "args": arguments}))

    app = shop([pay], nodes=lambda tools: ToolNode(tools, awrap_tool_call=with_key))
    assistant = GraphAssistant(app, simulate_tools={"pay": lambda what, key: f"would pay {what}"})
    reply, _ = await execute(assistant, *await chosen(assistant))
    assert (texts(reply)[-1], [what for what, _ in done]) == ("It says: paid mug", ["mug"])


async def test_what_simulates_a_tool_gets_its_defaults_and_gives_what_the_tool_could() -> None:
    @tool(response_format="content_and_artifact")
    async def pay(what: str, times: int = 2) -> Any:
        """Pay for it."""
        return "paid", {"real": True}

    def simulated(what: str, times: int) -> Any:
        return {"text": f"{what} x {times}", "pair": ("would pay", {"real": False})}[what.split()[0]]

    assistant = GraphAssistant(shop([pay]), simulate_tools={"pay": simulated})
    for words, content, artifact in (("text", "text x 2", None), ("pair", "would pay", {"real": False})):
        _, _, reply, _ = await chosen(assistant, words)
        assert (reply[1].content, reply[1].artifact) == (content, artifact)
    told = ToolMessage("declined", status="error", artifact=7, tool_call_id="")
    _, _, reply, _ = await chosen(GraphAssistant(shop([pay]), simulate_tools={"pay": told}))
    assert (reply[1].content, reply[1].status, reply[1].artifact, reply[1].tool_call_id) == (
        "declined",
        "error",
        7,
        "c0",
    )
    marked = simulate_as("would pay")(pay)

    async def work(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(await marked.ainvoke({"what": "mug"}))]}

    graph = StateGraph(MessagesState)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    _, _, reply, _ = await chosen(GraphAssistant(graph.compile(name="shop")))
    assert texts(reply) == ["would pay"]


async def test_what_a_task_that_outlives_an_executed_turn_stores_is_stored() -> None:
    store = InMemoryStore()
    waiting: list[asyncio.Task[None]] = []
    go = asyncio.Event()

    async def later(words: str) -> None:
        await go.wait()
        await store.aput(("later",), words, {"text": words})

    async def work(state: MessagesState) -> dict[str, Any]:
        words = "simulated" if is_simulating() else "real"
        waiting.append(asyncio.create_task(later(words)))
        return {"messages": [AIMessage(words)]}

    graph = StateGraph(MessagesState)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    assistant = GraphAssistant(graph.compile(name="shop", store=store))
    await execute(assistant, *await chosen(assistant))
    go.set()
    await asyncio.gather(*waiting)
    assert [item.key for item in store.search(("later",))] == ["real"]
