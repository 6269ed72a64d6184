"""An agent that exists already, with tools and a checkpointer, improved by lookahead: python examples/existing_agent.py

The agent cancels orders, and sometimes the wrong one, because it guesses. Looking ahead it asks first. Its model is
made of rules so that this needs no API: give another name, and nothing else changes. The name "policy" trains it:
collab-agents train grpo --config examples/train_app/grpo.yaml --out runs/shop
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

from collab_agents import (
    Budget,
    GraphAssistant,
    Lookahead,
    MultiturnReward,
    Task,
    create_lookahead_agent,
    load_chat_model,
)
from collab_agents.judges import Conversation, token_cost
from collab_agents.users import Memory, UserContext

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

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self

    @property
    def _llm_type(self) -> str:
        return "shop"


def _call(name: str, **arguments: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"{name}-{next(_ids)}"}])


_ids = itertools.count()


def create_app(model: str = "rules") -> Any:
    """The agent as it was before: any compiled graph will do, such as one made by langchain's `create_agent`."""
    tools = [my_orders, cancel]
    chat = (ShopModel() if model == "rules" else load_chat_model(model)).bind_tools(tools)

    async def answer(state: MessagesState) -> Any:
        return {"messages": [await chat.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", answer)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=InMemorySaver(), name="shop")


def create_assistant(model: str = "rules") -> GraphAssistant:
    """The agent on stand-ins of its tools: in simulations nothing is really cancelled."""
    return GraphAssistant(
        create_app(model),
        simulate_tools={"cancel": lambda order: f"cancelled {order}: {ORDERS.get(order, 'nothing')}"},
        timeout=None,  # A model in this process may be slow.
    )


async def customer(
    messages: Sequence[BaseMessage], memory: Memory, context: UserContext
) -> tuple[BaseMessage | None, Memory]:
    """The simulated user: wants one order cancelled, and says which when asked. With a model: `LLMUser`."""
    if not messages:
        return HumanMessage("Please cancel my order"), memory
    order = wanted(context.task)
    return (HumanMessage(f"Number {order}, {ORDERS[order]}.") if "?" in str(messages[-1].content) else None), memory


def right_order(conversation: Conversation, task: Task) -> float:
    """The judge: the order that is meant was cancelled and no other. With a model: `rubric`."""
    results = [str(message.content) for message in conversation.messages if message.type == "tool"]
    cancelled = {number for number in ORDERS for result in results if result.startswith(f"cancelled {number}")}
    order = wanted(task)
    return float(order in cancelled) - float(bool(cancelled - {order}))


def wanted(task: Task) -> str:
    return str(task.metadata.get("order", "8"))


async def main() -> None:
    assistant = create_assistant()
    thread: RunnableConfig = {"configurable": {"thread_id": "customer-42"}}
    await assistant.app.ainvoke({"messages": [HumanMessage("Hello")]}, thread)

    # The live thread is forked, and only the chosen reply is executed.
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
