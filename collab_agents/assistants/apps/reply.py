"""Read an app's reply from its output."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    BaseMessageChunk,
    convert_to_messages,
    message_chunk_to_message,
)


def as_messages(value: object) -> list[BaseMessage]:
    """Convert messages, a single message or a string, in any form that LangChain accepts, to messages."""
    if value is None:
        return []
    if isinstance(value, str):
        return [AIMessage(value)]
    several = [AIMessage(one) if isinstance(one, str) else one for one in listed(value)]
    return [
        message_chunk_to_message(message) if isinstance(message, BaseMessageChunk) else message
        for message in convert_to_messages(several)
    ]


def listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def reply_in(
    after: Sequence[BaseMessage], history: Sequence[BaseMessage], *, accumulates: bool, rewrites: bool
) -> list[BaseMessage] | None:
    """Return the messages that follow the history, or None if the history has changed.

    `accumulates` says that the app's messages include the history, `rewrites` that the app may change it.
    """
    if len(after) >= len(history) and all(map(_same, history, after)):
        return list(after[len(history) :])
    known = {message.id for message in history if message.id}
    if rewrites:
        # The reply follows the last known message; a summary that replaced other messages is history.
        last = max((index for index, message in enumerate(after) if message.id in known), default=-1)
        return list(after[last + 1 :])
    return None if accumulates else [message for message in after if message.id not in known]


def _same(before: BaseMessage, after: BaseMessage) -> bool:
    """Return whether a message of the history is unchanged, apart from an id it may have been given."""
    named = before.id is None or before.id == after.id
    return named and before.type == after.type and before.content == after.content
