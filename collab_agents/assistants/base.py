"""What an assistant is."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from langchain_core.messages import BaseMessage

from collab_agents.memory import Memory


@runtime_checkable
class Assistant(Protocol):
    """Answers the user. Like a `SimulatedUser` it holds no state between calls.

    An assistant may also have a method `state_of(memory)`, which gives judges what else there is to judge, such as
    the final state of an app, as `Conversation.state`.
    """

    async def respond(self, messages: Sequence[BaseMessage], memory: Memory) -> tuple[list[BaseMessage], Memory]:
        """The reply to a conversation that ends with the user's message, and the assistant's memory.

        The reply is one message or several (tool calls and their results before the final words). See `Memory`
        for what the graph adds to the memory of each call.
        """
        ...
