"""Running in earnest, for a reply that was chosen, a tool that was stood in for when it was simulated."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolMessage
from langgraph.graph import START, StateGraph

from collab_agents.assistants.interrupts import question_in
from collab_agents.assistants.playing import AppError, LocalPlayer, Played, Player
from collab_agents.assistants.reading import listed
from collab_agents.assistants.simulation import App, tool_nodes

Play = Callable[[Player, Mapping[str, Any], Any], Awaitable[Played]]


@dataclass(frozen=True)
class Performed:
    """A tool's result, what else it changes in the app's state, and {"store": ...}, if it has put anything there."""

    result: ToolMessage
    update: dict[str, Any] = field(default_factory=dict)
    store: dict[str, Any] = field(default_factory=dict)


def call_of(result: ToolMessage, before: Sequence[BaseMessage]) -> ToolCall:
    """The call that a tool's message answers."""
    called = (call for message in reversed(before) for call in getattr(message, "tool_calls", ()))
    return next(call for call in called if call["id"] == result.tool_call_id)


async def perform_tool(
    app: App,
    name: str,
    call: ToolCall,
    messages: Sequence[BaseMessage],
    *,
    state: Mapping[str, Any],
    branch: Mapping[str, Any],
    play: Play,
    seconds: float | None,
) -> Performed:
    """Run one tool of the app where its tools run. What goes wrong is its result, as a tool's error is.

    messages: those before its result. state, branch: of the app after the reply. play: runs it, and answers its
    interrupts. seconds: for it.
    """
    graph, node = next(pair for pair in tool_nodes(app) if call["name"] in pair[1].tools_by_name)
    key = node._messages_key
    # A graph of the tool alone, so that it finds the state, thread, store and context that the app's tools have.
    builder: Any = getattr(graph, "builder")  # noqa: B009
    alone = StateGraph(builder.state_schema, context_schema=builder.context_schema)
    alone.add_node("tools", node)
    alone.add_edge(START, "tools")
    player = LocalPlayer(alone.compile(store=graph.store or app.store), name, timeout=seconds, interruptible=True)
    given = {**state, key: [*messages, AIMessage("", tool_calls=[call])]}
    try:
        played = await play(player, {one: branch[one] for one in ("thread_id", "store") if one in branch}, given)
        if played.interrupts:
            asked = question_in(played.interrupts[0].value)[:200]
            raise AppError(f"app {name!r}: tool {call['name']!r} asks {asked!r} in earnest and not in simulation")
    except AppError as error:
        return Performed(ToolMessage(str(error), name=call["name"], tool_call_id=call["id"], status="error"))
    updates = [one for update in played.updates for one in listed(update) if one]
    told = [message for update in updates for message in listed(update.get(key))]
    return Performed(
        next(one for one in told if isinstance(one, ToolMessage) and one.tool_call_id == call["id"]),
        {one: value for update in updates for one, value in update.items() if one != key},
        {"store": played.branch["store"]} if "store" in played.branch else {},
    )
