"""A person in the graph, with no API: python examples/human.py

The graph stops where the person is asked and goes on with the answer, in this process or, with a checkpointer that
lasts, in another one and days later. Not at a terminal, a short script answers.
"""

import asyncio
import sys
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from collab_agents import ChatAssistant, HumanUser, Task, create_conversation_graph, load_chat_model

SCRIPT = ["Can you name a fruit?", {"content": "That will do, thanks.", "end": True}]
task = Task(id="fruit", goal="You want to know a fruit that is not an apple.")


def answer(question: dict[str, Any], turn: int) -> Any:
    """What the person says: an empty line ends the conversation."""
    if question["problem"]:
        print(f"({question['problem']})")
    if not sys.stdin.isatty():
        return SCRIPT[turn]
    try:
        return input("you: ")
    except EOFError:
        return ""


async def main() -> None:
    assistant = ChatAssistant(load_chat_model("local:smollm2", max_tokens=32, temperature=0.7))
    graph = create_conversation_graph(HumanUser(), assistant, max_exchanges=4, checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "fruit-1"}}
    print(f"goal: {task.goal}")
    state = await graph.ainvoke({"messages": [], "task": task.model_dump()}, thread)
    turn = 0
    while asked := state.get("__interrupt__"):
        if words := asked[0].value["said"]:
            print(f"assistant: {words}")
        state = await graph.ainvoke(Command(resume=answer(asked[0].value, turn)), thread)
        turn += 1
    print(f"\nThe whole conversation, ended by {state['stopped']}:")
    for message in state["messages"]:
        message.pretty_print()


asyncio.run(main())
