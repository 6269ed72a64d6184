"""Executing a reply that was simulated: every real tool once, inside the app, and only then."""

from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, ToolRuntime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, interrupt

from collab_agents import (
    GraphAssistant,
    MultiturnReward,
    ScriptedUser,
    create_conversation_graph,
    create_lookahead_agent,
    is_simulating,
    simulate_as,
)
from collab_agents.errors import RolloutError
from collab_agents.judges import token_cost
from collab_agents.users import Memory
from tests.conftest import party
from tests.test_apps import SEED, texts

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


async def chosen(assistant: GraphAssistant, words: str = "mug", memory: Memory | None = None) -> tuple[Any, ...]:
    messages: list[BaseMessage] = [HumanMessage(words, id=words)]
    memory = (memory or {}) | SEED
    reply, after = await assistant.respond(messages, memory)
    return messages, memory, reply, after


async def execute(assistant: GraphAssistant, *turn: Any) -> tuple[list[BaseMessage], Memory]:
    done = await assistant.execute(*turn)
    return done.reply, done.memory


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
    reply, after = await assistant.respond(asked, memory | SEED)
    assert seen == [("customer 42", {"who": "Ann"}, [])]

    reply, after = await execute(assistant, asked, memory | SEED, reply, after)
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
    messages, memory = [*messages, *reply, HumanMessage("yes")], after | SEED
    reply, after = await assistant.respond(messages, memory)
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
