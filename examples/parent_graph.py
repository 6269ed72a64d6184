"""The lookahead agent as a node of a parent graph, its reply streamed, with no API: python examples/parent_graph.py"""

import asyncio
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

from collab_agents import (
    AgendaUser,
    Budget,
    ChatAssistant,
    Lookahead,
    MultiturnReward,
    create_lookahead_agent,
    load_chat_model,
    offline_tasks,
)
from collab_agents.judges import asks_first, fact_coverage, token_cost

TASK = offline_tasks("test")[0]


class State(MessagesState):
    """The parent's own state. What it names of the agent's, it gets: how the reply was chosen."""

    lookahead: dict[str, Any]
    topic: str


def route(state: State) -> str:
    return "writer" if state["topic"] == "writing" else "other"


def other(state: State) -> dict[str, Any]:
    return {"messages": [AIMessage("I only write texts.")]}


async def main() -> None:
    model = load_chat_model("local:smollm2", max_tokens=32, temperature=0.7)
    reward = MultiturnReward({"facts": fact_coverage(), "asks": asks_first(), "cost": token_cost()}, {"asks": 0.1})
    writer = create_lookahead_agent(
        ChatAssistant(model),
        AgendaUser(),
        reward,
        Lookahead(candidates=2, futures=2, window=1, proactive_ratio=0.5),
        budget=Budget(seconds=40),
        goal=lambda messages: TASK,
    )
    graph = StateGraph(State)
    graph.add_node("writer", writer)
    graph.add_node("other", other)
    graph.add_conditional_edges(START, route, ["writer", "other"])
    graph.add_edge("writer", END)
    graph.add_edge("other", END)
    parent: Any = graph.compile(checkpointer=InMemorySaver())

    config: RunnableConfig = {"configurable": {"thread_id": "1"}}
    opening = TASK.metadata["agenda"]["opening"]
    print(f"user: {opening}\nagent: ", end="")
    asked: Any = {"messages": [HumanMessage(opening)], "topic": "writing"}
    async for _, (message, _) in parent.astream(asked, config, stream_mode="messages", subgraphs=True):
        if isinstance(message, AIMessageChunk):
            print(message.content, end="", flush=True)
    told = (await parent.aget_state(config)).values["lookahead"]
    print(f"\n\nof rewards {[one['reward'] for one in told['candidates']]} number {told['chosen']}: {told['why']}")
    print(f"{told['usage']['calls']} calls, {told['seconds']} s")


if __name__ == "__main__":
    asyncio.run(main())
