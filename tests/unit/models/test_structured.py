"""JSON objects from chat models: what constrains them to a schema, on servers and in this process."""

import asyncio
import json
from collections.abc import Callable
from typing import Literal

import pytest
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from collab_agents import (
    ChatAssistant,
    LLMUser,
    Lookahead,
    MultiturnReward,
    Trajectory,
    generate_trajectories,
    load_chat_model,
    load_tasks,
)
from collab_agents.errors import ModelError, UnusableReply
from collab_agents.judges import interactivity, token_cost
from collab_agents.judges.interactivity import InteractivityRating
from collab_agents.models import LimitedChatModel
from collab_agents.models.ask import ask
from collab_agents.models.limits import Limits
from collab_agents.usage import Usage, track_usage
from collab_agents.users.llm import UserReply
from tests.support.recording import Answer, Request, chunk, completion, recording, streamed

ASKED: list[BaseMessage] = [HumanMessage("How good is it? Answer with one JSON object.")]


class Verdict(BaseModel):
    reason: str = ""
    score: float = Field(default=0.5, ge=0, le=1)


class Order(BaseModel):
    note: str
    size: Literal["small", "large"]
    stars: int = Field(ge=1, le=5)
    price: float
    paid: bool
    tags: list[str]


def answering(text: str) -> Callable[[Request], Answer]:
    return lambda request: Answer(completion(choice={"message": {"role": "assistant", "content": text}}))


async def test_a_server_is_sent_the_schema_in_the_form_of_strict_mode() -> None:
    with recording(answering('{"reason": "fine", "score": 0.25}')) as server:
        model = load_chat_model("openai:any", base_url=server.url)
        assert await ask(model, ASKED, Verdict, seed=1) == Verdict(reason="fine", score=0.25)
    sent = server.requests[0].body["response_format"]
    assert sent["type"] == "json_schema"
    assert (sent["json_schema"]["name"], sent["json_schema"]["strict"]) == ("Verdict", True)
    schema = sent["json_schema"]["schema"]
    assert schema["required"] == list(schema["properties"]) == ["reason", "score"]
    assert schema["additionalProperties"] is False
    assert "default" not in json.dumps(schema)


async def test_the_schema_can_be_left_out_and_goes_with_no_call_that_may_use_tools_or_is_a_chat() -> None:
    def lookup(name: str) -> str:
        """Look up a name."""
        return name

    with recording(answering('{"score": 0.25}')) as server:
        plain = load_chat_model("openai:any", base_url=server.url, structured=False)
        await ask(plain, ASKED, Verdict, seed=1)
        model = load_chat_model("openai:any", base_url=server.url)
        await ask(model, ASKED, Verdict, seed=1, tools=[tool(lookup)])
        await model.ainvoke("hi")
    assert ["response_format" in request.body for request in server.requests] == [False] * 3


async def test_a_server_that_refuses_a_schema_is_asked_without_and_sent_no_more() -> None:
    def refuses(request: Request) -> Answer:
        if "response_format" in request.body:
            return Answer({"error": {"message": "This response_format type is unavailable now"}}, 400)
        if request.body.get("stream"):
            return streamed(chunk('{"score": 1}'))
        return Answer(completion(choice={"message": {"role": "assistant", "content": '{"score": 0.25}'}}))

    with recording(refuses) as server:
        model = load_chat_model("openai:any", base_url=server.url)
        with track_usage() as usage:
            for _ in range(3):
                assert (await ask(model, ASKED, Verdict, seed=1)).score == 0.25
    assert ["response_format" in request.body for request in server.requests] == [True, False, False, False]
    assert usage == Usage(calls=3, input_tokens=21, output_tokens=9)
    with recording(refuses) as server:
        model = load_chat_model("openai:any", base_url=server.url)
        schema = {"name": "any", "schema": {"type": "object"}}
        said = [str(one.content) async for one in model.astream(ASKED, json_schema=schema)]
    assert "".join(said) == '{"score": 1}'
    assert len(server.requests) == 2


async def test_a_request_that_is_refused_for_another_reason_fails_with_it_and_the_next_one_has_its_schema() -> None:
    with recording(lambda request: Answer({"error": {"message": "the prompt is too long"}}, 400)) as server:
        model = load_chat_model("openai:any", base_url=server.url, limits=Limits(max_retries=0))
        with pytest.raises(ModelError, match="the prompt is too long"):
            await ask(model, ASKED, Verdict, seed=1)
        server.answer = answering('{"score": 0.25}')
        await ask(model, ASKED, Verdict, seed=1)
    assert ["response_format" in request.body for request in server.requests] == [True, False, True]


@pytest.fixture(scope="module")
def embedded() -> LimitedChatModel:
    return load_chat_model("local:smollm2", max_tokens=96, temperature=1.0, reproducible=False)


@pytest.mark.parametrize("shape", [UserReply, InteractivityRating, Order])
async def test_the_embedded_model_answers_with_a_usable_object_at_once(
    embedded: LimitedChatModel, shape: type[BaseModel]
) -> None:
    answers = await asyncio.gather(
        *(ask(embedded, ASKED, shape, seed=seed, attempts=1) for seed in range(12)), return_exceptions=True
    )
    unusable = [answer for answer in answers if not isinstance(answer, shape)]
    # An empty response that ends nothing is valid JSON, but not a reply.
    assert all("response is empty" in str(answer) for answer in unusable), unusable
    assert len(unusable) <= 1
    assert len({repr(answer) for answer in answers}) > 6


async def test_without_the_schema_it_hardly_does(embedded: LimitedChatModel) -> None:
    free = embedded.model_copy(update={"structured": False})
    with pytest.raises(UnusableReply):
        await ask(free, ASKED, Order, seed=1, attempts=2)


async def test_a_seed_decides_an_object() -> None:
    model = load_chat_model("local:smollm2", max_tokens=32, temperature=1.0)
    first = await ask(model, ASKED, Verdict, seed=3)
    assert await ask(model, ASKED, Verdict, seed=3) == first
    assert await ask(model, ASKED, Verdict, seed=4) != first


async def test_an_object_is_counted_as_one_call_and_ends_with_a_cancelled_caller(embedded: LimitedChatModel) -> None:
    with track_usage() as usage:
        await ask(embedded, ASKED, Verdict, seed=1)
    assert usage.calls == 1
    assert 5 < usage.output_tokens <= 120
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await ask(embedded, ASKED, UserReply, seed=1)
    await embedded.ainvoke("hi", max_tokens=1)


async def test_one_seed_gives_the_same_trajectories_at_any_concurrency() -> None:
    one_by_one = await played(1)
    assert len({one.messages[-1]["content"] for one in one_by_one}) == len(one_by_one) == 2
    assert await played(64) == one_by_one


async def played(max_concurrency: int) -> list[Trajectory]:
    """Trajectories with the embedded model as assistant, user and judge."""
    model = load_chat_model("local:smollm2", max_tokens=12, temperature=0.7)
    run = generate_trajectories(
        load_tasks("offline", split="test", limit=2),
        user=LLMUser(model),
        assistant=ChatAssistant(model),
        reward=MultiturnReward({"interactivity": interactivity(model), "token_cost": token_cost()}),
        lookahead=Lookahead(candidates=1, futures=1, window=0, max_exchanges=1),
        max_concurrency=max_concurrency,
    )
    return sorted([one async for one in run], key=lambda one: one.task.id)
