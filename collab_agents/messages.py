"""Conversions between LangChain messages, used in memory, and role/content dicts, used on disk."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ToolMessage,
    convert_to_messages,
    convert_to_openai_messages,
    message_to_dict,
    messages_from_dict,
)

from collab_agents._internal.text import valid
from collab_agents.usage import token_count

_ROLES = {"human": "user", "ai": "assistant", "system": "system"}
_NAMES = {"human": "User", "ai": "Assistant", "system": "System", "tool": "Tool"}


def to_dicts(messages: Iterable[BaseMessage]) -> list[dict[str, Any]]:
    """Return messages as `{"role", "content"}` dicts in the OpenAI format, including tool calls and tool results.

    A message that an app wrote to itself in the user's role gets `"internal": True`.
    """
    return [_to_dict(message) for message in messages]


def _to_dict(message: BaseMessage) -> dict[str, Any]:
    if message.type == "human" and not is_users(message):
        return {**_to_dict(as_given(message)), _INTERNAL: True}
    role = _ROLES.get(message.type)
    if role and isinstance(message.content, str) and not message.name and not getattr(message, "tool_calls", None):
        return {"role": role, "content": message.content}
    return convert_to_openai_messages(message)


def from_dicts(messages: Sequence[dict[str, Any]]) -> list[BaseMessage]:
    """The inverse of `to_dicts`. Raises ValueError for a dict that is not a message."""
    plain = [{key: value for key, value in message.items() if key != _INTERNAL} for message in messages]
    read = convert_to_messages(plain)
    return [as_internal(one) if message.get(_INTERNAL) else one for one, message in zip(read, messages, strict=True)]


def with_ids(new: Sequence[BaseMessage], old: Sequence[BaseMessage], seed: int) -> list[BaseMessage]:
    """Give every new message a unique id, and make messages of custom classes LangChain's own.

    `add_messages` replaces a message by another one of the same id, and checkpoints are read without custom classes.
    """
    taken = {message.id for message in old}
    named_messages = []
    for index, message in enumerate(new):
        if not type(message).__module__.startswith("langchain_core."):
            (message,) = messages_from_dict([message_to_dict(message)])
        if message.id is None or message.id in taken:
            message = message.model_copy(update={"id": f"{seed:08x}-{len(old)}-{index}"})
        message = _valid(message)
        taken.add(message.id)
        named_messages.append(message)
    return named_messages


def as_example(message: BaseMessage) -> BaseMessage:
    """Mark a message as part of an example, which precedes the conversation and does not belong to it."""
    return message.model_copy(update={"additional_kwargs": {**message.additional_kwargs, _EXAMPLE: True}})


def is_example(message: BaseMessage) -> bool:
    return bool(message.additional_kwargs.get(_EXAMPLE))


def _valid(message: BaseMessage) -> BaseMessage:
    parts: dict[str, object] = {"content": message.content, "additional_kwargs": message.additional_kwargs}
    if isinstance(message, AIMessage):
        parts["tool_calls"] = message.tool_calls
    changed = {name: made for name, part in parts.items() if (made := valid(part)) != part}
    return message.model_copy(update=changed) if changed else message


_EXAMPLE = "example"
_INTERNAL = "internal"


def as_internal(message: BaseMessage) -> BaseMessage:
    """Mark a message of an app's turn as internal if it is in the user's role.

    For example, a critique that the app wrote to itself must not be mistaken for the user's message.
    """
    if message.type != "human":
        return message
    return message.model_copy(update={"additional_kwargs": {**message.additional_kwargs, _INTERNAL: True}})


def as_given(message: BaseMessage) -> BaseMessage:
    """Return the message as the app wrote it, without the mark."""
    if _INTERNAL not in message.additional_kwargs:
        return message
    kept = {key: value for key, value in message.additional_kwargs.items() if key != _INTERNAL}
    return message.model_copy(update={"additional_kwargs": kept})


def is_users(message: BaseMessage) -> bool:
    """Whether the message is from the user, and not from an app in the user's role."""
    return message.type == "human" and not message.additional_kwargs.get(_INTERNAL)


def is_assistants(message: BaseMessage) -> bool:
    """Whether the message is part of the assistant's turn: a reply, a tool's result, or an internal message."""
    return message.type in ("ai", "tool") or (message.type == "human" and not is_users(message))


def text_of(message: BaseMessage) -> str:
    """Return the message's text, without images, tool calls or reasoning blocks."""
    return message.content if isinstance(message.content, str) else message.text


def tokens_of(message: BaseMessage) -> int:
    """Return the message's number of tokens: as reported, else one per four characters, rounded up."""
    if isinstance(message, AIMessage) and message.usage_metadata:
        return token_count(message.usage_metadata["output_tokens"])
    return -(-len(text_of(message)) // 4)


def replies(messages: Iterable[BaseMessage]) -> list[str]:
    """What the assistant said, one text for each of its turns.

    A turn's messages are put together, tool calls and results left out; but where a turn has no words of its own (a
    tool whose result goes to the user as it is), its last result is what was said.
    """
    turns = []
    for assistants, group in groupby(messages, is_assistants):
        if assistants:
            words = [(message.type, text) for message in group if (text := text_of(message)).strip()]
            said = [text for kind, text in words if kind == "ai"] or [text for _, text in words[-1:]]
            turns.append("\n\n".join(said))
    return turns


def as_text(messages: Iterable[BaseMessage]) -> str:
    """Messages as one text, to compare. Prompts have them by `prompts.transcript`, with boundaries."""
    return "".join(_line(message) for message in messages if message.type != "system")


def as_seen(messages: Iterable[BaseMessage]) -> Iterator[BaseMessage]:
    """The conversation as the user sees it: each of the assistant's turns is one message, with the id of its last."""
    for assistants, group in groupby(messages, is_assistants):
        turn = list(group)
        yield from [AIMessage(text, id=turn[-1].id) for text in replies(turn)] if assistants else turn


def calls_in(message: AIMessage) -> list[str]:
    """The tool calls of a message, each as "name(arguments)"."""
    return [f"{call['name']}({json.dumps(call['args'], ensure_ascii=False)})" for call in message.tool_calls]


def name_of_tool(message: BaseMessage) -> str:
    return (message.name if isinstance(message, ToolMessage) else None) or "tool"


def _line(message: BaseMessage) -> str:
    words = text_of(message)
    if isinstance(message, AIMessage):
        words += "".join(f"\n[calls {call}]" for call in calls_in(message))
    if message.type == "human" and not is_users(message):
        return f"Assistant, to itself: {words.strip()}\n\n"
    name = f"Tool {message.name}" if isinstance(message, ToolMessage) and message.name else _NAMES.get(message.type)
    return f"{name or message.type}: {words.strip()}\n\n"
