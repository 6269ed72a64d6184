"""Usage by role and model, and what it costs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from genai_prices import Usage as ListedUsage
from genai_prices import calc_price
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from benchmarks.process import Server
from collab_agents import (
    AgendaUser,
    ChatAssistant,
    GraphAssistant,
    LLMUser,
    MultiturnReward,
    Price,
    Usage,
    given_prices,
    load_chat_model,
    read_trajectories,
    track_usage,
)
from collab_agents.costs import Tokens, dollars_for, has_price
from collab_agents.judges import bleu, interactivity, token_cost
from collab_agents.models.ask import invoke
from collab_agents.runs.directory import read_totals
from tests.support.recording import Answer, completion, recording
from tests.support.runs import SMALL, collect
from tests.support.tasks import parties

Serve = Callable[..., Server]
CANDIDATES, FUTURES, TURNS = SMALL.candidates, SMALL.futures, SMALL.max_exchanges


async def test_a_runs_usage_is_by_role_and_model(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    assistant, user, judge = (
        load_chat_model(f"openai:{name}", base_url=server.url) for name in ("one", "two", "three")
    )
    done = await collect(
        parties(2),
        user=LLMUser(user),
        assistant=ChatAssistant(assistant),
        reward=MultiturnReward({"bleu": bleu(judge), "lively": interactivity(judge), "cost": token_cost()}),
        out=tmp_path,
    )
    usage = done["party-0"].usage
    turns = CANDIDATES * FUTURES * TURNS
    assert {role: list(models) for role, models in usage.parts.items()} == {
        "user": [f"openai:two at {server.url}"],
        "assistant": [f"openai:one at {server.url}"],
        "judge bleu": [f"openai:three at {server.url}"],
        "judge lively": [f"openai:three at {server.url}"],
    }
    calls = {role: counts.calls for role, counts in usage.by_role().items()}
    assert calls["assistant"] == CANDIDATES * TURNS + turns
    assert calls["judge bleu"] == calls["judge lively"] == turns + 1, "every future, and the conversation"
    assert usage.by_model()[f"openai:three at {server.url}"].calls == 2 * (turns + 1)
    assert sum(calls.values()) == usage.calls
    assert sum(counts.input_tokens for counts in usage.by_role().values()) == usage.input_tokens
    assert usage.cost is None, "the price of a model on one's own server is unknown"
    assert {one.task.id: one.usage.parts for one in read_trajectories(tmp_path)} == {
        name: one.usage.parts for name, one in done.items()
    }
    whole = Usage.of(read_totals(tmp_path))
    assert whole.calls == server.stats()["calls"]
    assert sum(counts.calls for counts in whole.by_role().values()) == whole.calls


async def test_cached_tokens_are_counted_apart_and_cost_what_was_given() -> None:
    usage: dict[str, Any] = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    usage |= {"prompt_tokens_details": {"cached_tokens": 800}}
    with recording(lambda request: Answer(completion(usage=usage))) as server:
        model = load_chat_model("openai:mine", base_url=server.url)
        prices = {"openai:mine": Price(input=2, output=10, cached_input=0.5)}
        with given_prices(prices), track_usage() as priced:
            await model.ainvoke("Hello")
        with given_prices({"openai:mine": Price(input=2, output=10)}), track_usage() as plain:
            await model.ainvoke("Hello")
        with given_prices({"openai:other": Price(input=2, output=10)}), track_usage() as unknown:
            await model.ainvoke("Hello")
    assert (priced.input_tokens, priced.cached_tokens, priced.output_tokens) == (1000, 800, 100)
    assert priced.cost == pytest.approx((200 * 2 + 800 * 0.5 + 100 * 10) / 1e6)
    assert plain.cost == pytest.approx((1000 * 2 + 100 * 10) / 1e6)
    assert unknown.cost is None
    priced.add(unknown)
    assert priced.cost is None, "the price of one call is unknown"
    assert priced.dollars == pytest.approx((200 * 2 + 800 * 0.5 + 100 * 10) / 1e6)


async def test_a_call_without_reported_tokens_has_an_unknown_cost() -> None:
    with recording(lambda request: Answer(completion(usage=None))) as server:
        model = load_chat_model("openai:mine", base_url=server.url)
        with given_prices({"openai:mine": Price(input=2, output=10)}), track_usage() as usage:
            await model.ainvoke("Hello")
    assert (usage.calls, usage.unreported, usage.cost) == (1, 1, None)


class Listed(GenericFakeChatModel):
    """A model of another library, which says that it is OpenAI's."""

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {"ls_provider": "openai", "ls_model_name": "gpt-4o-mini"}


async def test_a_listed_model_costs_what_genai_prices_says() -> None:
    cached = InputTokenDetails(cache_read=1500)
    metadata = UsageMetadata(input_tokens=2000, output_tokens=300, total_tokens=2300, input_token_details=cached)
    model = Listed(messages=iter([AIMessage("Hello.", usage_metadata=metadata)]))
    with track_usage() as usage:
        await invoke(model, [HumanMessage("Hello")], seed=0)
    listed = calc_price(
        ListedUsage(input_tokens=2000, cache_read_tokens=1500, output_tokens=300), "gpt-4o-mini", provider_id="openai"
    )
    assert list(usage.by_model()) == ["openai:gpt-4o-mini"]
    assert usage.cost == pytest.approx(float(listed.total_price))
    assert usage.dollars > 0


@given(
    model=st.sampled_from(
        ["openai:gpt-4o-mini", "openai:gpt-5", "anthropic:claude-sonnet-4-20250514", "google:gemini-2.5-pro"]
    ),
    fresh=st.integers(0, 400_000),
    cached=st.integers(0, 400_000),
    output=st.integers(0, 100_000),
)
def test_a_listed_price_is_that_of_genai_prices_at_any_length(model: str, fresh: int, cached: int, output: int) -> None:
    provider, _, name = model.partition(":")
    tokens = ListedUsage(input_tokens=fresh + cached, cache_read_tokens=cached, output_tokens=output)
    listed = float(calc_price(tokens, name, provider_id=provider).total_price)
    assert dollars_for(model, Tokens(fresh + cached, output, cached)) == pytest.approx(listed, abs=1e-9)


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("openai:gpt-4o-mini", True),
        ("openai:gpt-4o-mini at https://api.openai.com/v1", True),
        ("openai:gpt-4o-mini at http://127.0.0.1:8000/v1", False),
        ("openai:gpt-4o-mini at https://models.example.org/v1", False),
        ("openai:no-such-model", False),
        ("anthropic:claude-sonnet-4-20250514", True),
        ("ollama:llama3", False),
        ("local:smollm2", True),
        ("unknown", False),
    ],
)
def test_which_prices_are_known(model: str, known: bool) -> None:
    assert has_price(model) is known


async def test_the_models_inside_an_app_are_counted_by_name(serve: Serve) -> None:
    server = serve()
    inside = ChatOpenAI(model="inner", base_url=server.url, api_key=SecretStr("none"))

    async def answer(given: Any) -> Any:
        return await inside.ainvoke(given["messages"])

    done = await collect(
        parties(1),
        user=AgendaUser(),
        assistant=GraphAssistant(RunnableLambda(answer)),
        prices={"openai:inner": Price(input=1, output=1)},
    )
    usage = done["party-0"].usage
    assert list(usage.parts) == ["assistant"]
    assert list(usage.parts["assistant"]) == [f"openai:inner at {server.url}"]
    assert usage.cost == pytest.approx((usage.input_tokens + usage.output_tokens) / 1e6)
