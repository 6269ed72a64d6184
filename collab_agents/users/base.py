"""What a simulated user is: a function from the conversation and a memory to the next message and memory."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from langchain_core.messages import BaseMessage, HumanMessage

Memory = dict[str, Any]
"""What a participant remembers between its turns: JSON values under keys of its own.

A user finds three more keys in it, put there by the graph for each call and not to be changed: `task` (the `Task`,
with the goal), `persona` (a `Persona` or None) and `seed` (an int, this branch's own). An assistant finds `seed` and
`proactive` (whether to use its proactive prompt).
"""

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


class _FunctionUser:
    def __init__(self, function: Callable[..., Awaitable[tuple[BaseMessage | None, Memory]]]) -> None:
        self._function = function

    async def respond(self, messages: Sequence[BaseMessage], memory: Memory) -> tuple[BaseMessage | None, Memory]:
        return await self._function(messages, memory)


def as_user(user: SimulatedUser | Callable[..., Awaitable[tuple[BaseMessage | None, Memory]]]) -> SimulatedUser:
    """The user itself, or one made of an async function `(messages, memory) -> (message | None, memory)`."""
    if isinstance(user, SimulatedUser):
        return user
    if callable(user):
        return _FunctionUser(user)
    raise TypeError(f"a simulated user has a method respond or is an async function, got {type(user).__name__}")


def closing(text: str) -> HumanMessage:
    """A user's last words: the message is part of the conversation, and ends it."""
    return HumanMessage(text, response_metadata={_CLOSING: True})


def is_closing(message: BaseMessage | None) -> bool:
    return message is None or bool(message.response_metadata.get(_CLOSING))
