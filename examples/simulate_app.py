"""One conversation with an app of yours, played by a simulated user, with no API: python examples/simulate_app.py

The app and the user are made of rules here. Put your own app there, and leave `user` out: a model then plays the user,
by default gpt-4o-mini (`model=` names another), and pursues the goal as the persona would.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from collab_agents import simulate
from collab_agents.judges import token_cost
from collab_agents.users import Memory


@tool
def cancel(order: str) -> str:
    """Cancel an order. This cannot be undone."""
    raise RuntimeError("not in a simulation")


def answer(state: MessagesState) -> dict[str, Any]:
    last = state["messages"][-1]
    if last.type == "tool":
        return {"messages": [AIMessage(f"Done: {last.content}.")]}
    number = re.search(r"\d+", str(last.content))
    if number is None:
        return {"messages": [AIMessage("Which order is it?")]}
    call = {"name": "cancel", "args": {"order": number[0]}, "id": f"call-{len(state['messages'])}"}
    return {"messages": [AIMessage("", tool_calls=[call])]}


def create_app() -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_node("tools", ToolNode([cancel]))
    graph.add_edge(START, "answer")
    graph.add_conditional_edges("answer", tools_condition)
    graph.add_edge("tools", "answer")
    return graph.compile(name="shop")


async def customer(messages: Sequence[BaseMessage], memory: Memory) -> tuple[str | None, Memory]:
    """Says what it wants, gives the number when asked, and is content with any other answer."""
    if not messages:
        return "Please cancel my order", memory
    return ("Number 7." if "?" in str(messages[-1].content) else None), memory


async def main() -> None:
    trajectory = await simulate(
        create_app(),
        goal="You want order number 7 cancelled.",
        persona="hurried-parent",
        user=customer,
        judges={"cost": token_cost()},
        simulate_tools={"cancel": lambda order: f"order {order} is cancelled"},
    )
    for message in trajectory.messages:
        calls = [call["function"]["name"] for call in message.get("tool_calls", ())]
        print(f"{message['role']}: {' '.join(str(message['content'] or '').split())}{calls or ''}")
    print(f"ended by {trajectory.stopped}; {trajectory.scores}; {trajectory.usage.calls} calls of models")


if __name__ == "__main__":
    asyncio.run(main())
