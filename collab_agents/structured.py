"""Asking a chat model for a JSON object of a given shape, and getting it or an error."""

import json
from typing import Any, TypeVar

import json_repair
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from pydantic import BaseModel, ValidationError

from collab_agents.errors import UnusableReply, first_problem
from collab_agents.messages import text_of
from collab_agents.models.limits import LimitedChatModel
from collab_agents.seeds import derive_seed
from collab_agents.usage import is_counting_all, record_usage

S = TypeVar("S", bound=BaseModel)


async def ask(model: BaseChatModel, messages: list[BaseMessage], shape: type[S], *, seed: int, attempts: int = 4) -> S:
    """The model's answer as a `shape`. Near misses (code fences, a missing bracket, single quotes) are repaired;

    anything else is asked again, with what was wrong, up to `attempts` times in all. Raises UnusableReply then.
    """
    conversation = list(messages)
    problem = ""
    for attempt in range(attempts):
        reply = await invoke(model, conversation, seed=derive_seed(seed, attempt) if attempt else seed)
        text = text_of(reply)
        try:
            return parse(text, shape)
        except ValueError as error:
            problem = str(error)
        again = f"That was not the JSON object asked for ({problem}). Answer with the JSON object and nothing else."
        conversation = [*messages, AIMessage(text[:2000]), HumanMessage(again)]
    raise UnusableReply(f"no usable {shape.__name__} in {attempts} answers; the last one: {problem}")


def parse(text: str, shape: type[S]) -> S:
    """The JSON object in `text`, repaired if need be. Raises ValueError with a short reason."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        start = text.find("{")
        if start < 0:
            raise ValueError("there is no JSON object in it") from None
        value = json_repair.loads(text[start:])
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, dict)), value)
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error


async def invoke(model: BaseChatModel, messages: list[BaseMessage], *, seed: int) -> AIMessage:
    """One call. The seed goes to the models of this library, which take one; other models are counted here."""
    if isinstance(model, LimitedChatModel):
        seeds: dict[str, Any] = {"seed": seed} if model.seeded else {}
        return await model.ainvoke(messages, **seeds)
    reply = await model.ainvoke(messages)
    if not is_counting_all():
        record_usage(reply.usage_metadata)
    return reply
