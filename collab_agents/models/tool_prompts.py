"""Tools and tool calls in the form that a chat template takes, or as text for one that knows no tools."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from collab_agents.models.tool_calls import as_object
from collab_agents.trajectories import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOLD = """# Tools

You may call one or more functions to assist with the user query. Their signatures are within <tools></tools>:
<tools>
{tools}
</tools>

To call a function, write a JSON object with its name and arguments within <tool_call></tool_call>:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
"""Hermes' words, as Qwen's template has them."""


def for_template(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None
) -> tuple[list[Message], Sequence[Mapping[str, Any]] | None]:
    """Return messages and tools as the tokenizer's chat template takes them.

    Arguments are objects, which templates write as JSON. If the template knows no tools, they are told of in the system
    message, calls are text, and results are the user's, as in Qwen's template.
    """
    if not tools and not any(message["role"] == "tool" or message.get("tool_calls") for message in messages):
        return list(messages), None
    if re.search(r"\btools\b", str(tokenizer.chat_template)):  # It may be a dict of templates.
        return [_with_objects(message) for message in messages], tools
    told = [_as_text(message) for message in messages]
    return (_telling(told, tools) if tools else told), None


def _with_objects(message: Message) -> Message:
    if not message.get("tool_calls"):
        return message
    return {**message, "tool_calls": [_with_object(call) for call in message["tool_calls"]]}


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    return {**call, "function": {**call["function"], "arguments": as_object(call["function"]["arguments"])}}


def _as_text(message: Message) -> Message:
    words = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{words}\n</tool_response>"}
    calls = [_written(_with_object(call)["function"]) for call in message.get("tool_calls") or ()]
    if not calls:
        return message
    return {"role": message["role"], "content": "\n".join([words, *calls] if words else calls)}


def _written(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def _telling(messages: list[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    told = _TOLD.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{told}"}, *messages[1:]]
    return [{"role": "system", "content": told}, *messages]
