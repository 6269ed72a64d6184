"""What a turn on a fork of a live thread costs: python -m benchmarks.fork_turn

The app is a model, a tool and the model again, in process and made of rules, so that only the library is timed.
Prints the median of several runs, in milliseconds of CPU time a turn: nothing in it waits.
"""

import asyncio
import statistics
import time
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from collab_agents import GraphAssistant
from collab_agents.participants import AssistantContext


@tool
def pay(what: str) -> str:
    """Pay for it."""
    return f"paid {what}"


def think(state: MessagesState) -> dict[str, Any]:
    last = state["messages"][-1]
    if last.type == "tool":
        return {"messages": [AIMessage(f"It says: {last.content}")]}
    return {"messages": [AIMessage("", tool_calls=[{"name": "pay", "args": {"what": "mug"}, "id": "c"}])]}


def create_app() -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode([pay]))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", lambda state: "tools" if state["messages"][-1].tool_calls else END)
    graph.add_edge("tools", "think")
    return graph.compile(name="shop", checkpointer=InMemorySaver())


async def turn_ms(*, simulated: bool, executable: bool, turns: int = 50) -> float:
    app = create_app()
    live: Any = {"configurable": {"thread_id": "1"}}
    await app.ainvoke({"messages": [HumanMessage("Hello")]}, live)
    assistant = GraphAssistant(app, simulate_tools={"pay": "would pay"} if simulated else {})
    messages, memory = await assistant.fork(live)
    asked = [*messages, HumanMessage("A mug, please.", id="u")]
    context = AssistantContext(seed=1, executable=executable)
    await assistant.respond(asked, memory, context)
    began = time.process_time()
    for _ in range(turns):
        await assistant.respond(asked, memory, context)
    return (time.process_time() - began) / turns * 1000


async def main(runs: int = 7) -> None:
    cases = {
        "a future, tool called": {"simulated": False, "executable": False},
        "a future, tool simulated": {"simulated": True, "executable": False},
        "a candidate, tool called": {"simulated": False, "executable": True},
        "a candidate, tool simulated (paused and kept)": {"simulated": True, "executable": True},
    }
    for name, case in cases.items():
        times = [await turn_ms(**case) for _ in range(runs)]
        print(f"{name}: {statistics.median(times):.2f} ms of CPU a turn ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    asyncio.run(main())
