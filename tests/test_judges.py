from collections.abc import Callable

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata

from collab_agents import MultiturnReward, load_chat_model
from collab_agents.errors import ConfigError
from collab_agents.judges import (
    JUDGES,
    Conversation,
    Score,
    as_judge,
    bleu,
    fact_coverage,
    interactivity,
    load_judge,
    token_cost,
)
from collab_agents.rewards import mean
from collab_agents.tasks import Task
from tests.conftest import DRAFT, Server, party

PLAIN = Task(id="plain", prompt="You want a letter.")


def conversation(*said: str) -> Conversation:
    """User and assistant in turn."""
    kinds: list[type[BaseMessage]] = [HumanMessage, AIMessage]
    return Conversation([kinds[index % 2](text) for index, text in enumerate(said)])


async def test_token_cost_is_the_papers_formula_and_never_less_than_minus_one() -> None:
    usage = UsageMetadata(input_tokens=9, output_tokens=300, total_tokens=309)
    messages = [HumanMessage("Hi" * 99), AIMessage("x", usage_metadata=usage), AIMessage("12345")]
    assert await token_cost(rate=0.001)(Conversation(messages), PLAIN) == Score(-0.302, "302 assistant tokens")
    assert (await token_cost(rate=1.0)(Conversation(messages), PLAIN)).value == -1.0


@pytest.mark.parametrize(
    ("said", "value"),
    [
        (("Hi", DRAFT), 1.0),
        (("Hi", DRAFT, "And the year?", "Which year is it?"), 1.0),
        (("Hi", DRAFT.replace("Saturday 14 June", "[date]")), 2 / 3),
        (("Hi", DRAFT, "Shorter!", "word " * 25), 0.0),
        (("Hi", "Saturday 14 June at the Blue Barn, all in white?"), 0.0),
        (("Hi",), 0.0),
    ],
)
async def test_fact_coverage_is_the_share_of_facts_in_the_last_draft(said: tuple[str, ...], value: float) -> None:
    score = await fact_coverage()(conversation(*said), party())
    assert score.value == pytest.approx(value)


async def test_what_cannot_be_judged_gets_no_score_and_a_reason(serve: Callable[..., Server]) -> None:
    score = await fact_coverage()(conversation("Hi", DRAFT), PLAIN)
    assert (score.value, score.reason) == (None, "task 'plain' has no metadata.agenda to cover")
    garbage = load_chat_model("openai:any", base_url=serve("--garbage-rate", "1").url)
    for judge in (bleu(garbage), interactivity(garbage)):
        score = await judge(conversation("Hi", DRAFT), party())
        assert score.value is None
        assert "no usable" in score.reason
    assert (await bleu(garbage)(conversation("Hi", DRAFT), PLAIN)).value is None


async def test_interactivity_is_the_models_number_and_reason(serve: Callable[..., Server]) -> None:
    server = serve("--deterministic", "--log")
    judge = interactivity(load_chat_model("openai:any", base_url=server.url))
    scores = [await judge(conversation("Hi", DRAFT), party()) for _ in range(2)]
    assert scores[0] == scores[1]
    assert scores[0].value is not None
    assert 0 <= scores[0].value <= 1
    assert scores[0].reason
    assert party().prompt not in server.prompts()[0]


async def test_judges_that_want_the_artefact_share_one_extraction_and_its_prefix(serve: Callable[..., Server]) -> None:
    server = serve("--log")
    model = load_chat_model("openai:any", base_url=server.url)
    judges = {"a": bleu(model), "b": bleu(model), "c": interactivity(model)}
    reward = await MultiturnReward(judges).score(conversation("Hi", DRAFT), party())
    assert reward.value is not None
    assert reward.scores["a"] == reward.scores["b"]
    extraction, verdict = sorted(server.prompts(), key=lambda prompt: "interactivity" in prompt)
    shared = extraction.index(DRAFT) + len(DRAFT)
    assert extraction[:shared] == verdict[:shared]


async def test_bleu_of_the_reference_itself_is_one() -> None:
    class Extracted(Conversation):
        async def artefact(self, model: object, kind: str = "text") -> str:
            return party().reference or ""

    model = load_chat_model("openai:any", base_url="http://127.0.0.1:9")
    score = await bleu(model)(Extracted([]), party())
    assert score.value == pytest.approx(1.0)


async def test_the_reward_is_the_weighted_sum_and_zero_weight_only_records() -> None:
    judges = {
        "half": as_judge(lambda conversation, task: 0.5),
        "one": as_judge(lambda conversation, task: Score(1.0, "fine")),
        "noted": as_judge(lambda conversation, task: None),
    }
    reward = await MultiturnReward(judges, {"half": 2.0, "one": -0.5, "noted": 0}).score(conversation(), PLAIN)
    assert reward.value == pytest.approx(0.5)
    assert {name: score.value for name, score in reward.scores.items()} == {"half": 0.5, "one": 1.0, "noted": None}


async def test_a_plain_function_is_a_judge() -> None:
    async def length(conversation: Conversation, task: Task) -> float:
        return len(conversation.messages)

    reward = await MultiturnReward({"length": length}).score(conversation("Hi", "Hello"), PLAIN)
    assert reward.value == 2.0


async def test_a_judge_that_fails_or_has_no_score_leaves_the_conversation_unscored() -> None:
    async def broken(conversation: Conversation, task: Task) -> float:
        raise RuntimeError("no luck")

    reward = await MultiturnReward({"fine": token_cost(), "broken": as_judge(broken)}).score(conversation(), PLAIN)
    assert reward.value is None
    assert reward.reason == "broken: RuntimeError: no luck"
    reward = await MultiturnReward({"nan": as_judge(lambda *_: float("nan"))}).score(conversation(), PLAIN)
    assert (reward.value, reward.reason) == (None, "nan: the judge returned nan")


def test_the_mean_leaves_out_what_is_not_there() -> None:
    assert mean([1.0, None, 0.0]) == 0.5
    assert mean([None]) is None


@pytest.mark.parametrize(
    ("name", "options", "with_model", "problem"),
    [
        ("interactivty", {}, True, "did you mean 'interactivity'?"),
        ("token_cost", {"rat": 1}, False, "judge 'token_cost' has no option 'rat'; did you mean 'rate'?"),
        ("token_cost", {"rate": -1}, False, "judge 'token_cost': rate: input should be greater than 0, got '-1'"),
        ("interactivity", {}, False, "judge 'interactivity' needs a model"),
        ("fact_coverage", {}, True, "judge 'fact_coverage' takes no model"),
    ],
)
def test_a_wrong_judge_is_refused_in_a_sentence(
    name: str, options: dict[str, object], with_model: bool, problem: str
) -> None:
    model = load_chat_model("openai:any", base_url="http://127.0.0.1:9") if with_model else None
    with pytest.raises(ConfigError) as error:
        load_judge(name, model=model, options=options)
    assert problem in str(error.value)
    assert sorted(JUDGES) == ["bleu", "fact_coverage", "interactivity", "token_cost"]


def test_a_weight_needs_its_judge() -> None:
    with pytest.raises(ConfigError, match="weight for 'blue'"):
        MultiturnReward({"bleu": token_cost()}, {"blue": 1})
    with pytest.raises(ConfigError, match="the weight of 'a' is nan"):
        MultiturnReward({"a": token_cost()}, {"a": float("nan")})
    with pytest.raises(ConfigError, match="at least one judge"):
        MultiturnReward({})
