"""Tool calls in the text of a local model, in the forms that open models are trained to write."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import ToolCall

from collab_agents._internal.seeds import derive_seed

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
"""Hermes' form, which Qwen, SmolLM and others have: JSON in tags, of one call or of a list of them."""
_DECODER = json.JSONDecoder()


def read_calls(text: str, tools: Iterable[Mapping[str, Any]], seed: int) -> tuple[str, list[ToolCall]]:
    """Return a completion's words and its tool calls. What cannot be read as a call stays in the words.

    Args:
        text: The completion: words and `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, or calls alone,
            `{"name": ..., "parameters": {...}}; ...`, as Llama 3 writes them.
        tools: The tools that the model was told of, in OpenAI's form. A call without tags has to be of one of them.
        seed: Makes the calls' ids.
    """
    names = {tool["function"]["name"] for tool in tools}
    found: list[tuple[str, dict[str, Any]]] = []

    def take(block: re.Match[str]) -> str:
        calls = _tagged(block[1])
        found.extend(calls)
        return "" if calls else block[0]

    words = _TAGGED.sub(take, text).strip()
    if not found and (bare := _bare(words.removeprefix("<|python_tag|>"))) and all(name in names for name, _ in bare):
        words, found = "", bare
    return words, [
        ToolCall(name=name, args=args, id=f"call-{derive_seed(seed, 'tool call', i):08x}", type="tool_call")
        for i, (name, args) in enumerate(found)
    ]


def _tagged(text: str) -> list[tuple[str, dict[str, Any]]]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return _calls(value if isinstance(value, list) else [value])


def _bare(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the calls of a text that has nothing else."""
    values, rest = [], text.strip()
    while rest.startswith("{"):
        try:
            value, end = _DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            return []
        values.append(value)
        rest = rest[end:].lstrip("; \n")
    return [] if rest else _calls(values)


def _calls(values: Sequence[object]) -> list[tuple[str, dict[str, Any]]]:
    """Return the values as calls; none if one of them is no call."""
    calls = [_call(value) for value in values]
    return [call for call in calls if call] if all(calls) else []


def _call(value: object) -> tuple[str, dict[str, Any]] | None:
    if not isinstance(value, dict) or not isinstance(name := value.get("name"), str):
        return None
    args = as_object(value.get("arguments", value.get("parameters", {})))
    return (name, args) if isinstance(args, dict) else None


def as_object(arguments: object) -> object:
    """Return arguments that are written as JSON as what they mean, and any others as they are."""
    if isinstance(arguments, str):
        try:
            read = json.loads(arguments)
        except (ValueError, RecursionError):
            return arguments
        return read if isinstance(read, dict) else arguments
    return arguments
