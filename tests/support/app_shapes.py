"""Small apps of many shapes, made from a description, whose models follow a script."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from uuid import uuid4

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelCallLimitMiddleware, TodoListMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, InjectedToolCallId, tool
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_store
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, ToolRuntime
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy, Command, Send, interrupt

from collab_agents import simulate_as

Shape = Literal[
    "agent",
    "planned",
    "called",
    "parallel",
    "handover",
    "router",
    "create_agent",
    "create_agent in a graph",
    "one node",
]


@dataclass(frozen=True)
class Description:
    """An app to make.

    rounds: how many calls of tools the model makes at once, one number a round. answers: whether what simulates a tool
    says the same as the tool. asks: who interrupts for an approval.
    """

    shape: Shape = "agent"
    rounds: tuple[int, ...] = (1,)
    reads: bool = False
    answers: Literal["same", "other"] = "other"
    gives: Literal["text", "artifact", "command", "store"] = "text"
    asks: Literal["nobody", "tool", "node"] = "nobody"
    marked: bool = False
    checkpointer: bool = True
    store: bool = False
    cache: bool = False
    middleware: tuple[str, ...] = ()


@dataclass
class World:
    """An app, and everything real that it can do."""

    app: Any
    saver: InMemorySaver | None
    store: InMemoryStore | None
    done: list[str] = field(default_factory=list)
    model_calls: list[int] = field(default_factory=list)


class Scripted(BaseChatModel):
    """Says what a function makes of the messages."""

    script: Any
    counted: Any = None

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, messages: list[BaseMessage], *arguments: Any, **options: Any) -> ChatResult:
        if self.counted is not None:
            self.counted.append(len(messages))
        return ChatResult(generations=[ChatGeneration(message=self.script(messages))])


class Shop(MessagesState, total=False):
    cart: Annotated[list[str], lambda old, new: [*(old or []), *new]]
    plans: Annotated[int, lambda old, new: (old or 0) + new]
    quote: str


def calls(names: Sequence[str], what: str, place: str) -> AIMessage:
    return AIMessage(
        "",
        tool_calls=[{"name": n, "args": {"what": f"{what}{i}"}, "id": f"{place}-{i}-{n}"} for i, n in enumerate(names)],
    )


def script_of(described: Description) -> Callable[[list[BaseMessage]], AIMessage]:
    """Calls the tools round after round, what each gave in the arguments of the next, and says what came of it."""

    def script(messages: list[BaseMessage]) -> AIMessage:
        start = max(index for index, one in enumerate(messages) if one.type == "human")
        turn = messages[start:]
        rounds = sum(any(call["name"] == "pay" for call in getattr(one, "tool_calls", ())) for one in turn)
        last = [str(one.content) for one in turn if isinstance(one, ToolMessage)]
        if rounds < len(described.rounds):
            said = last[-1] if last else str(messages[start].content)
            names = ["pay"] * described.rounds[rounds] + ["look_up"] * (described.reads and rounds == 0)
            return calls(names, f"{said}.{rounds}.", f"{start}-{rounds}")
        return AIMessage("It says: " + " & ".join(last))

    return script


def simulated_by(described: Description) -> Any:
    return (lambda what: f"paid {what}") if described.answers == "same" else "pretended"


def tools_of(described: Description, world: World) -> list[BaseTool]:
    def really(what: str) -> str:
        if described.asks == "tool":
            world.done.append(f"{interrupt(f'Shall I pay {what}?')}: {what}")
        else:
            world.done.append(what)
        return f"paid {what}"

    if described.gives == "artifact":

        @tool(response_format="content_and_artifact")
        async def pay(what: str) -> Any:
            """Pay for it."""
            return really(what), {"receipt": what}

    elif described.gives == "command":

        @tool
        async def pay(what: str, id: Annotated[str, InjectedToolCallId]) -> Any:
            """Pay for it."""
            return Command(
                update={"cart": [what], "messages": [ToolMessage(really(what), tool_call_id=id, name="pay")]}
            )

    elif described.gives == "store":

        @tool
        async def pay(what: str, runtime: ToolRuntime[Any, Any]) -> Any:
            """Pay for it."""
            paid = really(what)
            if runtime.store:
                await runtime.store.aput(("paid",), what, {"what": what, "after": len(runtime.state["messages"])})
            return paid

    else:

        @tool
        async def pay(what: str) -> Any:
            """Pay for it."""
            return really(what)

    @tool
    async def look_up(what: str) -> str:
        """Look it up."""
        return f"there is {what}"

    return [simulate_as(simulated_by(described))(pay) if described.marked else pay, look_up]


class Counting(AgentMiddleware[Any, Any]):
    """Keeps a number of its own in the agent's state."""

    class State(MessagesState, total=False):
        counted: int

    state_schema = State

    def after_model(self, state: Any, runtime: Any) -> dict[str, Any]:
        return {"counted": state.get("counted", 0) + 1}


def middleware_of(described: Description) -> list[Any]:
    made: dict[str, Any] = {
        "todo": TodoListMiddleware,
        "limit": lambda: ModelCallLimitMiddleware(thread_limit=50),
        "counting": Counting,
    }
    return [made[name]() for name in described.middleware]


def make(described: Description) -> World:
    """The app, alone in a world of its own."""
    world = World(
        None, InMemorySaver() if described.checkpointer else None, InMemoryStore() if described.store else None
    )
    model = Scripted(script=script_of(described), counted=world.model_calls)
    tools = tools_of(described, world)
    cache: Any = InMemoryCache() if described.cache else None
    whole: Any = {"checkpointer": world.saver, "store": world.store, "cache": cache, "name": "shop"}

    async def think(state: Shop) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    async def plan(state: Shop) -> dict[str, Any]:
        return {"plans": 1, "messages": [AIMessage(f"A plan after {len(state['messages'])}.")]}

    async def remember(words: Any) -> None:
        if described.store:
            await get_store().aput(("notes",), uuid4().hex, {"text": str(words)})

    async def note(state: Shop) -> dict[str, Any]:
        await remember(state["messages"][-1].content)
        return {}

    async def quote(state: Shop) -> dict[str, Any]:
        return {"quote": f"{len(world.model_calls) and 'quoted'}"}

    async def approve(state: Shop) -> dict[str, Any]:
        return {"plans": int(interrupt("Shall I go on?") == "yes")}

    def agent_graph(*, approving: bool = False) -> Any:
        graph = StateGraph(Shop)
        graph.add_node("think", think)
        graph.add_node("tools", ToolNode(tools))
        graph.add_edge(START, "think")
        after = "tools"
        if approving:
            graph.add_node("approve", approve)
            graph.add_edge("approve", "tools")
            after = "approve"
        graph.add_conditional_edges("think", lambda state: after if state["messages"][-1].tool_calls else END)
        graph.add_edge("tools", "think")
        return graph

    def agent(**options: Any) -> Any:
        return create_agent(model, tools, middleware=middleware_of(described), **options)

    approving = described.asks == "node"
    if described.shape == "agent":
        world.app = agent_graph(approving=approving).compile(**whole)
        return world
    if described.shape == "create_agent":
        world.app = agent(**whole)
        return world

    graph = StateGraph(Shop)
    graph.add_node("quote", quote, cache_policy=CachePolicy(key_func=lambda state: "1") if described.cache else None)
    graph.add_node("note", note)
    graph.add_edge(START, "quote")
    graph.add_edge("quote", "note")
    worker = agent_graph(approving=approving).compile(name="worker")
    if described.shape == "planned":
        graph.add_node("plan", plan)
        graph.add_node("work", worker)
        graph.add_edge("note", "plan")
        graph.add_edge("plan", "work")
    elif described.shape == "create_agent in a graph":
        graph.add_node("work", agent(name="worker"))
        graph.add_edge("note", "work")
    elif described.shape == "called":

        async def work(state: Shop) -> dict[str, Any]:
            await remember("at work")
            came = await worker.ainvoke({"messages": [state["messages"][-1]]})
            return {"messages": [came["messages"][-1]]}

        graph.add_node("work", work)
        graph.add_edge("note", "work")
    elif described.shape == "parallel":

        async def one(given: Any) -> dict[str, Any]:
            came = await worker.ainvoke({"messages": [HumanMessage(given["what"])]})
            return {"cart": [str(came["messages"][-1].content)]}

        async def join(state: Shop) -> dict[str, Any]:
            return {"messages": [AIMessage(" and ".join(state["cart"]))]}

        def split(state: Shop) -> list[Send]:
            return [Send("one", {"what": f"{state['messages'][-1].content} {side}"}) for side in ("left", "right")]

        graph.add_node("one", RunnableLambda(one))
        graph.add_node("join", join)
        graph.add_conditional_edges("note", split, ["one"])
        graph.add_edge("one", "join")
    elif described.shape == "router":

        async def route(state: Shop) -> Command[Literal["left", "right"]]:
            return Command(goto="left" if len(str(state["messages"][-1].content)) % 2 else "right", update={"plans": 1})

        graph.add_node("route", route)
        graph.add_node("left", worker)
        graph.add_node("right", agent_graph().compile(name="other"))
        graph.add_edge("note", "route")
    elif described.shape == "handover":

        @tool
        async def hand_over(id: Annotated[str, InjectedToolCallId]) -> Any:
            """Let the other agent go on."""
            told = ToolMessage("handed over", tool_call_id=id, name="hand_over")
            return Command(goto="work", graph=Command.PARENT, update={"messages": [told], "plans": 1})

        async def first(state: Shop) -> dict[str, Any]:
            called = {"name": "hand_over", "args": {}, "id": f"h{len(state['messages'])}"}
            return {"messages": [AIMessage("", tool_calls=[called])]}

        front = StateGraph(Shop)
        front.add_node("first", first)
        front.add_node("tools", ToolNode([hand_over]))
        front.add_edge(START, "first")
        front.add_edge("first", "tools")

        graph.add_node("front", front.compile(name="front"), destinations=("work",))
        graph.add_node("work", worker)
        graph.add_edge("note", "front")
        graph.add_edge("work", END)
    else:

        async def alone(state: Shop) -> dict[str, Any]:
            await remember("alone")
            said = await model.ainvoke(state["messages"])
            told: list[BaseMessage] = [said]
            while said.tool_calls:
                for call in said.tool_calls:
                    told.append(
                        await {one.name: one for one in tools}[call["name"]].ainvoke({**call, "type": "tool_call"})
                    )
                said = await model.ainvoke([*state["messages"], *told])
                told.append(said)
            return {"messages": told}

        graph.add_node("alone", alone)
        graph.add_edge("note", "alone")
    world.app = graph.compile(**whole)
    return world
