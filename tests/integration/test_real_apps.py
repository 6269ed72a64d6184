"""Agents made with other libraries end, after lookahead, as they do in a plain run.

Each is played, forked, looked ahead with, executed and committed. The models follow scripts; all else is theirs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from deepagents import create_deep_agent
from langchain.agents import create_agent
from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelRetryMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    TodoListMiddleware,
    ToolCallLimitMiddleware,
    ToolRetryMiddleware,
)
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import BaseTool, tool
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_store
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.store.memory import InMemoryStore
from langgraph_supervisor import create_supervisor
from langgraph_swarm import create_handoff_tool, create_swarm
from langmem import create_manage_memory_tool, create_search_memory_tool

from collab_agents import (
    GraphAssistant,
    Lookahead,
    ScriptedUser,
    create_conversation_graph,
    create_lookahead_agent,
    create_rollout_graph,
    simulate,
)
from collab_agents.errors import RolloutError
from collab_agents.judges import token_cost
from collab_agents.messages import from_dicts, to_dicts
from collab_agents.participants import AssistantContext
from collab_agents.users import Memory
from tests.support.app_shapes import Scripted, World
from tests.support.apps import approve, steps
from tests.support.plain_and_ahead import COST, LIVE, run_ahead, run_plainly, stored, undrawn, values
from tests.support.tasks import party

CONTEXT = AssistantContext(seed=1)


@dataclass
class Made(World):
    failing: set[str] = field(default_factory=set)

    def tool(self) -> BaseTool:
        @tool
        async def pay(what: str) -> str:
            """Pay for it."""
            if what in self.failing:
                raise OSError("gateway down")
            self.done.append(what)
            return f"paid {what}"

        return pay


def with_middleware(*middleware: Any, uses: tuple[str, ...] = ("pay",)) -> Callable[[Made], Any]:
    def build(made: Made) -> Any:
        model = Scripted(script=steps(*uses), counted=made.model_calls)
        return create_agent(
            model,
            [made.tool()],
            middleware=[one() for one in middleware],
            checkpointer=made.saver,
            store=made.store,
            name="shop",
        )

    return build


def summarising() -> SummarizationMiddleware:
    words = Scripted(script=lambda messages: AIMessage("They talked."))
    return SummarizationMiddleware(model=words, trigger=("messages", 6), keep=("messages", 3))


def supervised(made: Made) -> Any:
    clerk = create_agent(Scripted(script=steps("pay")), [made.tool()], name="clerk")
    boss = Scripted(script=steps("transfer_to_clerk"), counted=made.model_calls)
    return create_supervisor([clerk], model=boss).compile(checkpointer=made.saver, store=made.store, name="shop")


def swarming(made: Made) -> Any:
    front = create_agent(
        Scripted(script=steps("transfer_to_clerk"), counted=made.model_calls),
        [create_handoff_tool(agent_name="clerk")],
        name="front",
    )
    clerk = create_agent(Scripted(script=steps("pay")), [made.tool()], name="clerk")
    swarm = create_swarm([front, clerk], default_active_agent="front")
    return swarm.compile(checkpointer=made.saver, store=made.store, name="shop")


def deep(made: Made) -> Any:
    clerk: Any = {
        "name": "clerk",
        "description": "Pays.",
        "system_prompt": "Pay.",
        "model": Scripted(script=steps("pay")),
        "tools": [made.tool()],
    }
    model = Scripted(script=steps("write_todos", "task"), counted=made.model_calls)
    return create_deep_agent(
        model=model, tools=[], subagents=[clerk], checkpointer=made.saver, store=made.store, name="shop"
    )


def remembering(made: Made) -> Any:
    model = Scripted(script=steps("manage_memory", "pay", "search_memory"), counted=made.model_calls)
    memories: Any = {"namespace": ("memories",)}
    tools = [create_manage_memory_tool(**memories), create_search_memory_tool(**memories), made.tool()]
    return create_agent(model, tools, checkpointer=made.saver, store=made.store, name="shop")


class Manager:
    """Keeps the store that it first sees, as langmem's store manager does."""

    def __init__(self) -> None:
        self._store: Any = None

    async def note(self, state: MessagesState) -> dict[str, Any]:
        if self._store is None:
            self._store = get_store()
        await self._store.aput(("notes",), f"{len(state['messages'])}", {"text": state["messages"][-1].content})
        return {}


def managed(made: Made) -> Any:
    manager = Manager()
    graph = StateGraph(MessagesState)
    graph.add_node("agent", create_agent(Scripted(script=steps("pay"), counted=made.model_calls), [made.tool()]))
    graph.add_node("note", manager.note)
    graph.add_edge(START, "agent")
    graph.add_edge("agent", "note")
    graph.add_edge("note", END)
    return graph.compile(checkpointer=made.saver, store=made.store, name="shop")


def reflecting(made: Made) -> Any:
    """A draft, a critique in the user's role, and the next draft, as langgraph-reflection does it."""
    graph = StateGraph(MessagesState)
    agent = create_agent(Scripted(script=steps("pay"), counted=made.model_calls), [made.tool()])
    graph.add_node("draft", agent)
    graph.add_node("critique", lambda state: {"messages": [HumanMessage("More of it")]})
    graph.add_edge(START, "draft")
    graph.add_conditional_edges("draft", lambda state: END if was_criticised(state) else "critique")
    graph.add_edge("critique", "draft")
    return graph.compile(checkpointer=made.saver, store=made.store, name="shop")


def was_criticised(state: MessagesState) -> bool:
    return any(one.content == "More of it" for one in state["messages"][-5:])


APPS: dict[str, Callable[[Made], Any]] = {
    "todo list": with_middleware(TodoListMiddleware, uses=("write_todos", "pay")),
    "call limits": with_middleware(
        lambda: ModelCallLimitMiddleware(thread_limit=20), lambda: ToolCallLimitMiddleware(thread_limit=20)
    ),
    "retries": with_middleware(
        lambda: ToolRetryMiddleware(max_retries=2, initial_delay=0, jitter=False),
        lambda: ModelRetryMiddleware(max_retries=2),
    ),
    "summarisation": with_middleware(summarising),
    "PII": with_middleware(lambda: PIIMiddleware("email", strategy="redact")),
    "approval": with_middleware(lambda: HumanInTheLoopMiddleware(interrupt_on={"pay": True})),
    "approval of each call": with_middleware(
        lambda: HumanInTheLoopMiddleware(interrupt_on={"pay": True}, interrupt_mode="per_call")
    ),
    "supervisor": supervised,
    "swarm": swarming,
    "deepagents": deep,
    "langmem": remembering,
    "store manager": managed,
    "reflection": reflecting,
}


def make(build: Callable[[Made], Any], *, saver: bool = True) -> Made:
    made = Made(None, InMemorySaver() if saver else None, InMemoryStore())
    made.app = build(made)
    return made


def everything(made: Made) -> Any:
    saver = made.saver
    assert saver
    return repr(saver.storage), repr(saver.writes), repr(saver.blobs), stored(made), list(made.done)


def policy(value: Any) -> Any:
    """Approves, and in a simulation too."""
    return approve(value)


WORDS = ["a mug for ann@example.com", "two cups", "a lamp"]


@pytest.mark.parametrize("name", APPS)
async def test_it_ends_as_a_plain_run(name: str) -> None:
    plain, ahead = make(APPS[name]), make(APPS[name])
    expected = await run_plainly(plain, WORDS, approve)
    came = await run_ahead(ahead, WORDS, {"pay": "pretended"}, interrupts=policy)
    assert plain.done
    assert ahead.done == plain.done
    assert "pretended" not in str(came)
    was, now = await plain.app.aget_state(LIVE), await ahead.app.aget_state(LIVE)
    assert values(now.values) == values(was.values)
    assert stored(ahead) == stored(plain)
    # By itself it goes on as it would.
    expected, came = await run_plainly(plain, ["one more"], approve), await run_plainly(ahead, ["one more"], approve)
    assert values(came) == values(expected)
    assert (ahead.done, stored(ahead)) == (plain.done, stored(plain))


@pytest.mark.parametrize("name", [name for name in APPS if not name.startswith("approval")])
async def test_it_ends_as_a_plain_run_without_a_checkpointer(name: str) -> None:
    plain, ahead = make(APPS[name], saver=False), make(APPS[name], saver=False)
    expected = await run_plainly(plain, WORDS)
    came = await run_ahead(ahead, WORDS, {"pay": "pretended"})
    assert ahead.done == plain.done
    assert stored(ahead) == stored(plain)
    if name != "summarisation":  # The agent's own messages keep what the app has summed up.
        texts = [undrawn(one.content) for one in came["messages"]]
        assert texts[1:] == [undrawn(one.content) for one in expected["messages"]][1:]


@pytest.mark.parametrize("name", APPS)
async def test_simulations_leave_it_as_it_is(name: str) -> None:
    made = make(APPS[name])
    await run_plainly(made, WORDS[:1], approve)
    before = everything(made)
    assistant = GraphAssistant(made.app, simulate_tools={"pay": "pretended"}, interrupts=policy, rewrites_history=True)
    messages, memory = await assistant.fork(LIVE)
    rollout = create_rollout_graph(
        ScriptedUser(WORDS), assistant, COST, Lookahead(candidates=2, futures=2, window=1, max_exchanges=2)
    )
    asked = {"messages": [*messages, HumanMessage("two cups")], "assistant_memory": memory, "task": party()}
    end = await rollout.ainvoke(asked)
    assert "pretended" in str(end["messages"])
    assert all(one["reward"] is not None for turn in end["turns"] for one in turn["candidates"])
    talk = await create_conversation_graph(ScriptedUser(WORDS), assistant).ainvoke({"messages": [], "task": party()})
    assert "pretended" in str(talk["messages"])
    assert everything(made) == before


@pytest.mark.parametrize("name", APPS)
async def test_the_executed_reply_is_streamed_and_no_simulated_one(name: str) -> None:
    made = make(APPS[name])
    assistant = GraphAssistant(made.app, simulate_tools={"pay": "pretended"}, interrupts=policy, rewrites_history=True)
    agent: Any = create_lookahead_agent(assistant, ScriptedUser(WORDS), COST, agree=lambda texts: False)
    said = ""
    async for message, _ in agent.astream({"messages": [HumanMessage("a mug")]}, stream_mode="messages"):
        said += str(message.content)
    assert "paid" in said
    assert "pretended" not in said


@pytest.mark.parametrize("name", [name for name in APPS if name not in ("retries",)])
async def test_a_real_tool_that_fails_fails_as_in_a_plain_run_and_is_called_again_once(name: str) -> None:
    plain, ahead = make(APPS[name]), make(APPS[name])
    for made in (plain, ahead):
        made.failing.add("a mug")
    with pytest.raises(OSError, match="gateway down"):
        await run_plainly(plain, ["a mug"], approve)
    assistant = GraphAssistant(ahead.app, simulate_tools={"pay": "pretended"}, interrupts=policy, rewrites_history=True)
    agent = create_lookahead_agent(
        assistant, ScriptedUser([]), COST, agree=lambda texts: False, checkpointer=InMemorySaver()
    )
    messages, memory = await assistant.fork(LIVE)
    asked = {"messages": [*messages, HumanMessage("a mug")], "assistant_memory": memory}
    at: Any = {"configurable": {"thread_id": "agent"}}
    with pytest.raises(RolloutError, match=r"execute: app 'shop'.*OSError: gateway down"):
        await agent.ainvoke(asked, at)
    for made in (plain, ahead):
        made.failing.clear()
    calls = len(ahead.model_calls)
    await plain.app.ainvoke(None, LIVE)
    end = await agent.ainvoke(None, at)
    await assistant.commit(end["assistant_memory"])
    assert ahead.done == plain.done
    assert len(ahead.model_calls) - calls <= 3
    was, now = await plain.app.aget_state(LIVE), await ahead.app.aget_state(LIVE)
    assert values(now.values) == values(was.values)


def concatenated(old: Any, writes: Any) -> list[str]:
    return [*(old or []), *(one for write in writes for one in write)]


class Logged(MessagesState, total=False):
    log: Annotated[list[str], DeltaChannel(concatenated)]


@pytest.mark.parametrize("where", ["root", "subgraph"])
async def test_channels_that_keep_only_what_changed_are_committed_whole(where: str) -> None:
    def build(made: Made) -> Any:
        model = Scripted(script=steps("pay", "pay"))

        async def think(state: Logged) -> dict[str, Any]:
            return {"messages": [await model.ainvoke(state["messages"])], "log": [f"t{len(state.get('log') or [])}"]}

        graph = StateGraph(Logged)
        graph.add_node("think", think)
        graph.add_node("tools", ToolNode([made.tool()]))
        graph.add_edge(START, "think")
        graph.add_conditional_edges("think", lambda state: "tools" if state["messages"][-1].tool_calls else END)
        graph.add_edge("tools", "think")
        if where == "root":
            return graph.compile(checkpointer=made.saver, name="shop")
        outer = StateGraph(MessagesState)
        outer.add_node("inner", graph.compile(checkpointer=True))
        outer.add_edge(START, "inner")
        return outer.compile(checkpointer=made.saver, name="shop")

    plain, ahead = make(build), make(build)
    await run_plainly(plain, WORDS)
    await run_ahead(ahead, WORDS, {"pay": "pretended"})
    assert ahead.done == plain.done
    for made in (plain, ahead):
        await run_plainly(made, ["one more"])
    logs = []
    for made in (plain, ahead):
        inner = made.app if where == "root" else made.app.nodes["inner"].bound.copy({"checkpointer": made.saver})
        at: Any = {"configurable": {**LIVE["configurable"], "checkpoint_ns": "" if where == "root" else "inner"}}
        logs.append((await inner.aget_state(at)).values["log"])
    assert logs[0] == logs[1] == [f"t{number}" for number in range(12)]


async def test_what_an_app_says_to_itself_is_part_of_its_turn_and_survives_the_disk() -> None:
    made = make(APPS["reflection"])

    async def user(messages: Sequence[BaseMessage], memory: Memory) -> tuple[Any, Memory]:
        assert not any(
            "More of it" in str(one.content) for one in messages if one.type == "human" and not one.additional_kwargs
        )
        return (None if len(messages) > 8 else f"word {len(messages)}"), memory

    trajectory = await simulate(made.app, goal="x", user=user, judges={"cost": token_cost()})
    internal = [message for message in trajectory.messages if message.get("internal")]
    assert {message["content"] for message in internal} == {"More of it"}
    assert all(message["role"] == "user" for message in internal)
    assert trajectory.messages[0]["content"] == "word 0"
    assert to_dicts(from_dicts(trajectory.messages)) == trajectory.messages
