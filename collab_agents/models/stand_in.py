"""A stand-in for a chat model that calls nothing: it gives filler, to count the calls and tokens that a run would take.

A token is taken to be four characters.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

from collab_agents.messages import text_of
from collab_agents.models.limits import LimitedChatModel

REPLY_TOKENS = 100
"""Tokens of a reply in words, at most the model's `max_tokens`."""
TEXT_TOKENS = 50
"""Tokens of each text in a JSON object."""
_WORD = "words, "


class StandIn(LimitedChatModel):
    """Answers with filler, in the shape that is asked for."""

    max_tokens: int | None = None

    @property
    def _llm_type(self) -> str:
        return "collab-agents-stand-in"

    @property
    def takes_schemas(self) -> bool:
        return True

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return self

    async def _request(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        **kwargs: Any,
    ) -> ChatResult:
        schema = (kwargs.get("json_schema") or {}).get("schema")
        reply = _text(min(REPLY_TOKENS, self.max_tokens or REPLY_TOKENS))
        if schema is not None:
            reply = json.dumps(_filled(schema, schema.get("$defs", {})))
        read, wrote = (-(-characters // 4) for characters in (sum(len(text_of(one)) for one in messages), len(reply)))
        usage = UsageMetadata(input_tokens=read, output_tokens=wrote, total_tokens=read + wrote)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(reply, usage_metadata=usage))])


def _text(tokens: int) -> str:
    return (_WORD * tokens)[: 4 * tokens].strip()


def _filled(schema: Mapping[str, Any], shapes: Mapping[str, Any]) -> Any:
    """Return a value of a JSON schema. What may end a conversation is false."""
    if "$ref" in schema:
        return _filled(shapes[schema["$ref"].rpartition("/")[2]], shapes)
    if "const" in schema or "enum" in schema:
        return schema.get("const", (schema.get("enum") or [None])[0])
    for either in ("anyOf", "oneOf", "allOf"):
        if either in schema:
            return _filled(schema[either][0], shapes)
    match schema.get("type"):
        case "object":
            return {name: _filled(one, shapes) for name, one in schema.get("properties", {}).items()}
        case "array":
            return [_filled(schema.get("items", {}), shapes)]
        case "integer" | "number":
            return schema.get("maximum", schema.get("minimum", 1))
        case "boolean":
            return False
        case "null":
            return None
    return _text(TEXT_TOKENS)
