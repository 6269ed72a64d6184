"""Ask a chat model for a JSON object of a given shape, and get it or an error."""

import json
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import json_repair
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema, WithDefaultSchema

from collab_agents._internal.notes import count_error
from collab_agents._internal.reasons import first_problem
from collab_agents._internal.seeds import derive_seed
from collab_agents.errors import UnusableReply
from collab_agents.messages import text_of
from collab_agents.models.limits import LimitedChatModel, name_of
from collab_agents.usage import is_counting_all, record_usage

S = TypeVar("S", bound=BaseModel)


_MOST_ROUNDS = 10
_MOST_OBJECTS = 200
_LONGEST_REPAIR = 20_000
_LONGEST_ANSWER = 100_000
"""Characters of a reply that are parsed, from its end: parsing blocks the event loop."""
_DECODER = json.JSONDecoder()

Use = Callable[[AIMessage], Awaitable[Sequence[BaseMessage]]]
"""Runs the tools that a reply calls, and returns their results."""


async def ask(
    model: BaseChatModel,
    messages: list[BaseMessage],
    shape: type[S],
    *,
    seed: int,
    attempts: int = 4,
    tools: Sequence[BaseTool] = (),
    use: Use | None = None,
) -> S:
    """Ask a chat model for a JSON object and return it as a `shape`.

    Small errors (code fences, a missing bracket, single quotes) are repaired. After any other, the model is asked again
    and told what was wrong.

    Args:
        model: The chat model.
        messages: The conversation that asks for the object.
        shape: The pydantic model of the object.
        seed: The first attempt's seed.
        attempts: The most answers to ask for.
        tools: Tools that the model may call before it answers, in at most ten rounds.
        use: Runs the tools that a reply calls.

    Raises:
        UnusableReply: If none of the answers is a `shape`, or the model keeps calling tools.
    """
    told = list(messages)  # The tools' results are added.
    conversation = told
    problem = ""
    for attempt in range(attempts):
        one = derive_seed(seed, attempt) if attempt else seed
        reply = await _answer(model, conversation, shape, seed=one, tools=tools, use=use)
        text = text_of(reply)
        try:
            return parse(text, shape)
        except ValueError as error:
            problem = str(error)
            count_error(f"unusable answer: no {shape.__name__}")
        again = f"That was not the JSON object asked for ({problem}). Answer with the JSON object and nothing else."
        conversation = [*told, AIMessage(text[:2000]), HumanMessage(again)]
    raise UnusableReply(f"no usable {shape.__name__} in {attempts} answers; the last one: {problem}")


@cache
def schema_of(shape: type[BaseModel]) -> dict[str, Any]:
    """Return the name of a shape and its JSON schema, as OpenAI's `response_format` takes them in strict mode."""
    return {"name": shape.__name__, "strict": True, "schema": shape.model_json_schema(schema_generator=_Strict)}


class _Strict(GenerateJsonSchema):
    """Every field is required, none has a default, and there are no others."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return True

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        return super().model_schema(schema) | {"additionalProperties": False}


async def _answer(
    model: BaseChatModel,
    conversation: list[BaseMessage],
    shape: type[BaseModel],
    *,
    seed: int,
    tools: Sequence[BaseTool],
    use: Use | None,
) -> AIMessage:
    """Return the first reply that calls no tool, and add the calls and their results to the conversation."""
    for used in range(_MOST_ROUNDS):
        one = derive_seed(seed, "tools", used) if used else seed
        reply = await invoke(model, conversation, seed=one, tools=tools, shape=shape)
        if use is None or not reply.tool_calls:
            return reply
        conversation += [reply, *await use(reply)]
    raise UnusableReply(f"the model still calls tools after {_MOST_ROUNDS} rounds")


def parse(text: str, shape: type[S]) -> S:
    """Return the last JSON object in `text` that is a `shape`, repaired if necessary.

    Text up to the last `</think>` is ignored.

    Raises:
        ValueError: With a short reason, if there is none.
    """
    answer = text.rpartition("</think>")[2][-_LONGEST_ANSWER:]
    problem: ValidationError | None = None
    for value in reversed(_objects(answer) or _repaired(answer)):
        try:
            return shape.model_validate(value)
        except ValidationError as error:
            problem = problem or error
    raise ValueError(first_problem(problem) if problem else "there is no JSON object in it") from problem


def _objects(text: str) -> list[object]:
    """Return the outermost JSON objects in a text."""
    found: list[object] = []
    start, tried = text.find("{"), 0
    while start >= 0 and tried < _MOST_OBJECTS:
        try:
            value, start = _DECODER.raw_decode(text, start)
            found.append(value)
        except (ValueError, RecursionError):
            start += 1
        start, tried = text.find("{", start), tried + 1
    return found


def _repaired(text: str) -> list[object]:
    start = text.find("{")
    if start < 0 or len(text) - start > _LONGEST_REPAIR:
        return []
    try:
        value: Any = json_repair.loads(text[start:])
    except (RecursionError, ValueError):  # For endless brackets.
        return []
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else [value]


async def invoke(
    model: BaseChatModel,
    messages: list[BaseMessage],
    *,
    seed: int,
    tools: Sequence[BaseTool] = (),
    shape: type[BaseModel] | None = None,
) -> AIMessage:
    """Call the model once. Calls of other libraries' models are counted here.

    This library's models get the seed and, unless they may call tools, the schema of the shape.
    """
    called: Runnable[LanguageModelInput, AIMessage] = model.bind_tools(tools) if tools else model
    if isinstance(model, LimitedChatModel):
        options: dict[str, Any] = {"seed": seed} if model.seeded else {}
        if shape and not tools and model.takes_schemas:
            options["json_schema"] = schema_of(shape)
        return await called.ainvoke(messages, **options)
    reply = await called.ainvoke(messages)
    if not is_counting_all():
        record_usage(reply.usage_metadata, model=name_of(model))
    return reply
