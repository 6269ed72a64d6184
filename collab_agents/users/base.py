"""What a simulated user is: a function from the conversation and a memory to the next message and memory."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from langchain_core.messages import BaseMessage, HumanMessage

from collab_agents.memory import Memory

_CLOSING = "closes_conversation"


@runtime_checkable
class SimulatedUser(Protocol):
    """Plays the user. Holds no state between calls: everything it remembers is in the memory it returns, so that

    a conversation branches by copying a value.
    """

    async def respond(self, messages: Sequence[BaseMessage], memory: Memory) -> tuple[BaseMessage | None, Memory]:
        """The user's next message and memory.

        messages: the conversation so far, empty before the first turn.
        memory: as this method returned it last, {} before the first turn; see `Memory` for what is added.

        No message (None) ends the conversation; so does a message made by `closing`, which is kept.
        """
        ...


class FunctionUser:
    """A function `(messages, memory) -> (message, text or None, memory)`, async or not, as the user."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    async def respond(self, messages: Sequence[BaseMessage], memory: Memory) -> tuple[BaseMessage | None, Memory]:
        result: Any = self._function(messages, memory)
        return await result if inspect.isawaitable(result) else result


def closing(text: str) -> HumanMessage:
    """A user's last words: the message is part of the conversation, and ends it."""
    return HumanMessage(text, response_metadata={_CLOSING: True})


def is_closing(message: BaseMessage | None) -> bool:
    return message is None or bool(message.response_metadata.get(_CLOSING))
