"""Apps to play with: their nodes, tools and scripts, and one turn of an app, chosen and then executed."""

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph

from collab_agents import GraphAssistant
from collab_agents.participants import AssistantContext
from collab_agents.users import Memory

CONTEXT = AssistantContext(seed=1)


def app_of(node: Callable[..., Any], schema: Any = MessagesState, **compiled: Any) -> Any:
    graph = StateGraph(schema, context_schema=compiled.pop("context", None))
    graph.add_node("work", node)
    graph.add_edge(START, "work")
    graph.add_edge("work", END)
    return graph.compile(name="shop", **compiled)


class Calls:
    """A model that calls a tool when it is asked to and reports what the tool gave."""

    def __init__(self, tools: Sequence[Any], **compiled: Any) -> None:
        from langgraph.prebuilt import ToolNode

        graph = StateGraph(MessagesState)
        graph.add_node("model", self.model)
        graph.add_node("tools", ToolNode(tools))
        graph.add_edge(START, "model")
        graph.add_conditional_edges("model", lambda state: "tools" if state["messages"][-1].tool_calls else END)
        graph.add_edge("tools", "model")
        self.app = graph.compile(name="shop", **compiled)

    def model(self, state: MessagesState) -> dict[str, Any]:
        last = state["messages"][-1]
        if last.type == "human":
            call = {"name": "cancel", "args": {"order": str(last.content)}, "id": f"c{len(state['messages'])}"}
            return {"messages": [AIMessage("", tool_calls=[call])]}
        return {"messages": [AIMessage(f"It says: {last.content}")]}


def paying(done: list[str]) -> Any:
    @tool
    async def pay(what: str) -> str:
        """Pay for it."""
        done.append(what)
        return f"paid {what}"

    return pay


def call(name: str, messages: list[BaseMessage], **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"{name}-{len(messages)}"}])


def steps(*names: str) -> Callable[[list[BaseMessage]], AIMessage]:
    """A script that calls tools one after the other, each with the user's words, and says what they gave."""

    def script(messages: list[BaseMessage]) -> AIMessage:
        start = max(index for index, one in enumerate(messages) if one.type == "human")
        results = [one for one in messages[start:] if one.type == "tool" and one.name in names]
        if len(results) < len(names):
            return call(names[len(results)], messages, **ARGUMENTS[names[len(results)]](str(messages[start].content)))
        return AIMessage("It says: " + " & ".join(str(one.content) for one in results))

    return script


ARGUMENTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "pay": lambda words: {"what": words},
    "write_todos": lambda words: {"todos": [{"content": words, "status": "in_progress"}]},
    "transfer_to_clerk": lambda words: {},
    "task": lambda words: {"description": words, "subagent_type": "clerk"},
    "manage_memory": lambda words: {"content": words, "action": "create"},
    "search_memory": lambda words: {"query": words},
}


def approve(value: Any) -> Any:
    """How an approval is given for real."""
    if isinstance(value, dict) and value.get("type") == "tool_approval":
        return {"type": "approve"}
    return {"decisions": [{"type": "approve"}]}


async def chosen(assistant: GraphAssistant, words: str = "mug", memory: Memory | None = None) -> tuple[Any, ...]:
    messages: list[BaseMessage] = [HumanMessage(words, id=words)]
    memory = memory or {}
    reply, after = await assistant.respond(messages, memory, CONTEXT)
    return messages, memory, reply, after


async def execute(assistant: GraphAssistant, *turn: Any) -> tuple[list[BaseMessage], Memory]:
    done = await assistant.execute(*turn)
    return done.reply, done.memory
