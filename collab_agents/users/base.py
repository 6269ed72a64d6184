"""Building blocks of users: a plain function as a user, and the message that closes a conversation."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage

from collab_agents.participants import Memory, UserContext, with_context

_CLOSING = "closes_conversation"


class FunctionUser:
    """A function as the user (see `as_user`)."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._call = with_context(function)

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: UserContext
    ) -> tuple[BaseMessage | None, Memory]:
        result = self._call(messages, memory, context)
        return await result if inspect.isawaitable(result) else result


def closing(text: str) -> HumanMessage:
    """Make a user's last message, which is part of the conversation and ends it.

    Args:
        text: What the user says.

    Example:
        def user(messages, memory, context):
            return closing("Thanks, bye!") if messages else "Hello", memory
    """
    return HumanMessage(text, response_metadata={_CLOSING: True})


def is_closing(message: BaseMessage | None) -> bool:
    """Return whether a user's message ends the conversation; None does too."""
    return message is None or bool(message.response_metadata.get(_CLOSING))
