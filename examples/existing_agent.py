"""An agent that exists already, with tools and a checkpointer, improved by lookahead: python examples/existing_agent.py

The agent cancels orders, and sometimes the wrong one, because it guesses. Looking ahead it asks first. Its model is
made of rules so that this needs no API: put a ChatOpenAI there, and nothing else changes.
"""

import asyncio
import itertools
import re
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from collab_agents import Budget, GraphAssistant, Lookahead, MultiturnReward, Task, create_lookahead_agent
from collab_agents.judges import Conversation, token_cost
from collab_agents.users import Memory

ORDERS = {"7": "two mugs", "8": "a lamp"}


@tool
def my_orders() -> str:
    """The customer's orders."""
    return ", ".join(f"{number}: {what}" for number, what in ORDERS.items())


@tool
def cancel(order: str) -> str:
    """Cancel an order. This cannot be undone."""
    what = ORDERS.pop(order, None)
    return f"cancelled {order}: {what}" if what else f"there is no order {order}"


class ShopModel(BaseChatModel):
    """Looks the orders up, and then asks which is meant or takes the first, in turn."""

    asks: Any = itertools.cycle([False, True])

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        last = str(messages[-1].content)
        number = re.search(r"\b[78]\b", last)
        if messages[-1].type == "human" and "order" not in last and not number:
            reply = AIMessage("Hello, what can I do for you?")
        elif messages[-1].type == "human":
            reply = _call("cancel", order=number[0]) if number else _call("my_orders")
        elif last.startswith("7:"):
            reply = AIMessage(f"Which one shall I cancel? {last}") if next(self.asks) else _call("cancel", order="7")
        else:
            reply = AIMessage(f"Done: {last}.")
        return ChatResult(generations=[ChatGeneration(message=reply)])

    @property
    def _llm_type(self) -> str:
        return "shop"


def _call(name: str, **arguments: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"{name}-{next(_ids)}"}])


_ids = itertools.count()


def create_app() -> Any:
    """The agent as it was before: any compiled graph will do, such as one made by langchain's `create_agent`."""
    model = ShopModel()
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([my_orders, cancel]))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=InMemorySaver(), name="shop")


async def customer(messages: Sequence[BaseMessage], memory: Memory) -> tuple[BaseMessage | None, Memory]:
    """The simulated user: wants the lamp cancelled, and says so when asked. With a model: `LLMUser`."""
    return (HumanMessage("The lamp, number 8.") if "?" in str(messages[-1].content) else None), memory


def right_order(conversation: Conversation, task: Task) -> float:
    """The judge: the lamp and nothing else was cancelled. With a model: `rubric`."""
    done = " ".join(conversation.assistant_texts())
    return float("cancelled 8" in done) - float("cancelled 7" in done)


async def main() -> None:
    app = create_app()
    thread: RunnableConfig = {"configurable": {"thread_id": "customer-42"}}
    await app.ainvoke({"messages": [HumanMessage("Hello")]}, thread)

    # The live thread is forked; in the simulations nothing is really cancelled.
    assistant = GraphAssistant(
        app, simulate_tools={"cancel": lambda order: f"cancelled {order}: {ORDERS.get(order, 'nothing')}"}
    )
    reward = MultiturnReward({"right": right_order, "cost": token_cost()})
    agent = create_lookahead_agent(
        assistant, customer, reward, Lookahead(candidates=4, futures=1, window=1), budget=Budget(seconds=20)
    )

    for words in ("Please cancel my order", "The lamp, number 8"):
        messages, memory = await assistant.fork(thread)
        asked = {"messages": [*messages, HumanMessage(words)], "assistant_memory": memory}
        end = await agent.ainvoke(asked)
        await assistant.commit(end["assistant_memory"])  # The chosen branch is the live thread from here on.
        told = end["lookahead"]
        print(f"user: {words}\nagent: {end['messages'][-1].content}")
        print(f"  of rewards {[one['reward'] for one in told['candidates']]} number {told['chosen']}: {told['why']}")
    print("orders left:", ORDERS)


if __name__ == "__main__":
    asyncio.run(main())
