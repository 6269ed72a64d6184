"""Assistants that need no model."""

import asyncio
from collections.abc import Callable, Sequence

from langchain_core.messages import AIMessage, BaseMessage

from collab_agents.participants import AssistantContext
from collab_agents.users import Memory


class Says:
    """An assistant that says what a function makes of the conversation and of its context."""

    def __init__(self, function: Callable[[Sequence[BaseMessage], AssistantContext], str]) -> None:
        self.function = function

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        await asyncio.sleep(0)
        return [AIMessage(self.function(messages, context))], {**memory, "spoke": memory.get("spoke", 0) + 1}


SHORT = Says(lambda messages, context: f"reply {len(messages)}")


class Counts:
    """An assistant that answers with how much was said, and remembers how many calls were under way at once."""

    def __init__(self, fail_on: str = "") -> None:
        self.under_way = self.peak = self.calls = 0
        self.fail_on = fail_on
        self.called = asyncio.Event()

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        self.calls += 1
        self.called.set()
        self.under_way += 1
        self.peak = max(self.peak, self.under_way)
        await asyncio.sleep(0.001)
        self.under_way -= 1
        if self.fail_on and self.fail_on in str(messages[0].content):
            raise RuntimeError("no luck")
        return [AIMessage(f"reply {len(messages)} of {context.seed}")], memory


class Tires(Counts):
    """Fails at one turn of every conversation."""

    def __init__(self, turn: int) -> None:
        super().__init__()
        self.turn = turn

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        turn = (len(messages) + 1) // 2
        if turn == self.turn:
            raise RuntimeError("too tired")
        self.calls += 1
        return [AIMessage(f"reply {turn} of {context.seed}")], memory | {"replies": turn}
