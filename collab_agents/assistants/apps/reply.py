"""Reading an app's reply out of what it returned."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    BaseMessageChunk,
    convert_to_messages,
    message_chunk_to_message,
)


def as_messages(value: Any) -> list[BaseMessage]:
    """Messages, one message or a text as messages, in any form that LangChain takes. Raises whatever it does."""
    if value is None:
        return []
    if isinstance(value, str):
        return [AIMessage(value)]
    several = [AIMessage(one) if isinstance(one, str) else one for one in listed(value)]
    return [
        message_chunk_to_message(message) if isinstance(message, BaseMessageChunk) else message
        for message in convert_to_messages(several)
    ]


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def reply_in(
    after: Sequence[BaseMessage], history: Sequence[BaseMessage], *, accumulates: bool, rewrites: bool
) -> list[BaseMessage] | None:
    """The messages that follow the history, or None if it is not as it was.

    accumulates: whether the app's messages hold the history, and not only what is new. rewrites: whether it may change.
    """
    if len(after) >= len(history) and all(map(_same, history, after)):
        return list(after[len(history) :])
    known = {message.id for message in history if message.id}
    if rewrites:
        # What comes after the last message that was known; a summary in the place of others is history.
        last = max((index for index, message in enumerate(after) if message.id in known), default=-1)
        return list(after[last + 1 :])
    return None if accumulates else [message for message in after if message.id not in known]


def _same(before: BaseMessage, after: BaseMessage) -> bool:
    """Whether a message of the history is what it was. One that had no id may have been given one."""
    named = before.id is None or before.id == after.id
    return named and before.type == after.type and before.content == after.content
