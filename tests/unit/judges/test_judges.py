"""Judges: what each one scores, and what it says when it cannot."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata

from benchmarks.process import Server
from collab_agents import Limits, MultiturnReward, load_chat_model
from collab_agents.errors import ConfigError
from collab_agents.judges import (
    JUDGES,
    Conversation,
    Judge,
    Score,
    as_judge,
    asks_first,
    assistant_tokens,
    bleu,
    clarification,
    evaluator,
    fact_coverage,
    interactivity,
    load_judge,
    reward_function,
    reward_model,
    rubric,
    token_cost,
    user_tokens,
)
from collab_agents.rewards import mean
from collab_agents.tasks import Task
from tests.support.reading import line_in
from tests.support.tasks import DRAFT, party

PLAIN = Task(id="plain", goal="You want a letter.")


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
    assert (score.value, score.reason) == (None, "task 'plain' has no metadata.agenda to play or judge by")
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
    assert party().goal not in server.prompts()[0]


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
    assert reward.reason == f"broken: RuntimeError: no luck ({line_in(broken, 1)})"
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
    assert sorted(JUDGES) == list(JUDGES)


def test_a_weight_needs_its_judge() -> None:
    with pytest.raises(ConfigError, match="weight for 'blue'"):
        MultiturnReward({"bleu": token_cost()}, {"blue": 1})
    with pytest.raises(ConfigError, match="the weight of 'a' must be finite, got nan"):
        MultiturnReward({"a": token_cost()}, {"a": float("nan")})
    with pytest.raises(ConfigError, match="at least one judge"):
        MultiturnReward({})


async def test_interactivity_is_the_mean_of_as_many_samples_as_wanted(serve: Callable[..., Server]) -> None:
    server = serve("--deterministic", "--log")
    model = load_chat_model("openai:any", base_url=server.url)
    one = await interactivity(model)(conversation("Hi", DRAFT), party())
    three = await interactivity(model, samples=3)(conversation("Hi", DRAFT), party())
    assert len(server.bodies()) == 4
    assert len({body["seed"] for body in server.bodies()}) == 3
    assert one.value is not None
    assert three.value is not None
    values = [float(part.split(" (")[0]) for part in three.reason.split("; ")]
    assert values[0] == one.value
    assert three.value == pytest.approx(sum(values) / 3)


async def test_samples_that_cannot_be_used_are_left_out(serve: Callable[..., Server]) -> None:
    model = load_chat_model("openai:any", base_url=serve("--garbage-rate", "0.8").url)
    scores = [await interactivity(model, samples=6)(conversation("Hi", str(index)), party()) for index in range(4)]
    assert all(score.value is not None for score in scores)
    assert any(score.reason.count("; ") < 5 for score in scores)


async def test_a_model_that_cannot_be_called_gives_no_score(serve: Callable[..., Server]) -> None:
    server = serve("--error-rate", "1")
    model = load_chat_model("openai:any", base_url=server.url, limits=Limits(max_retries=0))
    for judge in (interactivity(model, samples=2), bleu(model), rubric(model, criteria="polite"), asks_first(model)):
        score = await judge(conversation("Hi", DRAFT), party())
        assert score.value is None
        assert "HTTP 503" in score.reason


async def test_bleu_is_of_words() -> None:
    """6 of 7 words, 4 of 6 pairs, 3 of 5 triples and 2 of 4 quadruples agree; the lengths are the same."""

    class Extracted(Conversation):
        async def artefact(self, model: object, kind: str = "text") -> str:
            return "the cat lay on the mat today"

    model = load_chat_model("openai:any", base_url="http://127.0.0.1:9")
    task = Task(id="a", goal="p", reference="the cat lay on the rug today")
    score = await bleu(model)(Extracted([]), task)
    assert score.value is not None
    assert score.value == pytest.approx((6 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** 0.25)
    by_character = await bleu(model, tokenize="char")(Extracted([]), task)
    assert by_character.value is not None
    assert by_character.value > score.value


async def test_a_rubric_is_judged_by_its_own_words_after_the_shared_prefix(serve: Callable[..., Server]) -> None:
    server = serve("--deterministic", "--log")
    model = load_chat_model("openai:any", base_url=server.url)
    judges = {"polite": rubric(model, criteria=["It is polite.", "It is brief."]), "how": interactivity(model)}
    reward = await MultiturnReward(judges).score(conversation("Hi", DRAFT), party())
    assert reward.value is not None
    (asked,) = [prompt for prompt in server.prompts() if "- It is polite.\n- It is brief." in prompt]
    (other,) = [prompt for prompt in server.prompts() if prompt != asked]
    shared = asked.index(DRAFT) + len(DRAFT)
    assert asked[:shared] == other[:shared]
    with pytest.raises(ConfigError, match="criteria is empty"):
        rubric(model, criteria="  ")


@pytest.mark.parametrize(
    ("first", "value"),
    [
        ("Happy to help! When is the party?", 1.0),
        ("Please tell me the date.", 1.0),
        (DRAFT, 0.0),
        (DRAFT + " Let me know if you have any questions!", 0.0),
        (DRAFT + "\n\nWould you like me to change anything?", 0.0),
        (DRAFT + " Which dress code did you have in mind?", 1.0),
        (DRAFT.replace("You are", "Why come? How are you? You are"), 0.0),
        ("## What is a party?\n**Why do we dance?**\n" + DRAFT, 0.0),
        (DRAFT + " Does that answer your question? Would you like more details?", 0.0),
        ("いつですか？", 1.0),
        ("```python\n# what is this?\nprint('When is it?')\n```", 0.0),
    ],
)
async def test_whether_the_first_reply_asks_and_whether_it_should_have(first: str, value: float) -> None:
    talk = conversation("Hi", first, "Tomorrow", "And where is it?")
    assert (await asks_first()(talk, PLAIN)).value == value
    for ambiguous in (True, False):
        task = Task(id="q", goal="p", metadata={"ambiguous": ambiguous})
        score = await clarification()(talk, task)
        assert score.value == float(bool(value) == ambiguous)
        assert ("ambiguous" if ambiguous else "clear") in score.reason
    assert (await clarification()(talk, PLAIN)).value is None
    assert (await asks_first()(Conversation([]), PLAIN)).value is None


async def test_a_model_may_decide_whether_the_first_reply_asks(serve: Callable[..., Server]) -> None:
    model = load_chat_model("openai:any", base_url=serve("--deterministic").url)
    task = Task(id="q", goal="p", metadata={"ambiguous": True})
    asked = await asks_first(model)(conversation("Hi", DRAFT), task)
    right = await clarification(model)(conversation("Hi", DRAFT), task)
    assert asked.value in (0.0, 1.0)
    assert right.value == asked.value


async def test_tokens_are_counted_on_both_sides() -> None:
    usage = UsageMetadata(input_tokens=9, output_tokens=300, total_tokens=309)
    talk = Conversation([HumanMessage("12345"), AIMessage("x", usage_metadata=usage), HumanMessage("1234")])
    assert (await assistant_tokens()(talk, PLAIN)).value == 300
    assert (await user_tokens()(talk, PLAIN)).value == 3


def shouting(*, inputs: str, outputs: list[dict[str, str]], reference_outputs: str | None, **more: object) -> object:
    """An evaluator as openevals makes them."""
    assert inputs == party().goal
    assert reference_outputs == party().reference
    loud = outputs[-1]["content"].isupper()
    return {"key": "shouting", "score": loud, "comment": "LOUD" if loud else "calm", "metadata": None}


async def quiet(outputs: list[dict[str, str]]) -> object:
    return [{"key": "a", "score": 0.25}, {"key": "b", "score": 0.75}, {"key": "c", "score": None}]


async def test_an_openevals_style_evaluator_is_a_judge() -> None:
    assert await evaluator(shouting)(conversation("Hi", "HELLO"), party()) == Score(1.0, "LOUD")
    by_name = load_judge("evaluator", options={"function": f"{__name__}:shouting"})
    assert await by_name(conversation("Hi", "Hello"), party()) == Score(0.0, "calm")
    assert (await evaluator(quiet)(conversation("Hi", "Hello"), PLAIN)).value == 0.5
    assert (await evaluator(quiet, key="b")(conversation("Hi", "Hello"), PLAIN)).value == 0.75
    assert (await evaluator(quiet, key="c")(conversation("Hi", "Hello"), PLAIN)).value is None


async def test_an_evaluator_of_openevals_itself_is_a_judge() -> None:
    from openevals.exact import exact_match

    def last_message(*, outputs: list[dict[str, str]], reference_outputs: str | None, **_: object) -> object:
        return exact_match(outputs=outputs[-1]["content"], reference_outputs=reference_outputs)

    assert (await evaluator(last_message)(conversation("Hi", party().reference or ""), party())).value == 1.0
    assert (await evaluator(last_message)(conversation("Hi", "Hello"), party())).value == 0.0


def length_reward(
    prompts: list[list[dict[str, str]]], completions: list[list[dict[str, str]]], longest: list[int], **columns: object
) -> list[float | None]:
    """A reward function as TRL takes them."""
    assert [message["role"] for message in prompts[0]] == ["user", "assistant", "user"]
    return [
        None if limit < 0 else min(len(one[0]["content"]) / limit, 1.0)
        for one, limit in zip(completions, longest, strict=True)
    ]


async def test_a_trl_style_reward_function_is_a_judge() -> None:
    talk = conversation("Hi", "Yes?", "Write!", "12345", "Bye")
    judge = reward_function(length_reward, columns={"longest": "most"})
    assert (await judge(talk, Task(id="a", goal="p", metadata={"most": 10}))).value == 0.5
    assert (await judge(talk, Task(id="a", goal="p", metadata={"most": -1}))).value is None
    score = await judge(talk, PLAIN)
    assert score == Score(None, "task 'plain' has no 'most' to pass to the reward function")
    by_name = load_judge(
        "reward_function", options={"function": f"{__name__}:length_reward", "columns": {"longest": "most"}}
    )
    assert (await by_name(talk, Task(id="a", goal="p", metadata={"most": 5}))).value == 1.0


def brevity(conversation: Conversation, task: Task) -> float:
    return 1 / len(conversation.messages)


def brevity_at(best: int, weight: float = 1.0) -> Judge:
    async def judge(conversation: Conversation, task: Task) -> Score:
        return Score(weight * min(best / len(conversation.messages), 1.0), "counted")

    return judge


async def test_a_judge_of_your_own_is_named_by_module_and_function() -> None:
    assert (await load_judge(f"{__name__}:brevity")(conversation("Hi", "Hello"), PLAIN)).value == 0.5
    made = load_judge(f"{__name__}:brevity_at", options={"best": 1})
    assert await made(conversation("Hi", "Hello"), PLAIN) == Score(0.5, "counted")


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        (f"{__name__}:brevty", {}, f"judge: '{__name__}' has no 'brevty'; did you mean 'brevity'?"),
        ("tests.no_such:judge", {}, "judge: 'tests.no_such' cannot be imported: ModuleNotFoundError"),
        (":judge", {}, "judge: ':judge' is not of the form module:attribute"),
        (f"{__name__}:PLAIN", {}, "cannot be called"),
        (f"{__name__}:brevity_at", {"bst": 1}, "has no option 'bst'; did you mean 'best'?"),
        ("evaluator", {"function": "nowhere"}, "judge 'evaluator': function: 'nowhere' is not of the form"),
        ("evaluator", {}, "judge 'evaluator' needs the option 'function'"),
        ("rubric", {}, "judge 'rubric' needs a model"),
        ("interactivity", {"samples": 0}, "judge 'interactivity' needs a model"),
    ],
)
def test_a_wrong_judge_of_your_own_is_refused(name: str, options: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_judge(name, options=options)
    assert problem in str(error.value)


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model with a head that scores, as a folder."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from tests.support.tiny import tiny_model

    folder = tiny_model(tmp_path_factory.mktemp("reward"))
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = None
    model.save_pretrained(folder)
    return folder


async def test_a_reward_model_reads_conversations_together_and_scores_them_as_alone(reward_folder: str) -> None:
    judge = reward_model(reward_folder, dtype="float32", device="cpu")
    talks = [conversation("Hi", DRAFT), conversation("Hi", "Hello"), conversation(*["Hi", "Hello, you!"] * 9)]
    together = [score.value for score in await asyncio.gather(*(judge(talk, PLAIN) for talk in talks))]
    alone = [(await judge(talk, PLAIN)).value for talk in talks]
    assert together == pytest.approx(alone, abs=1e-3)
    assert len({round(value or 0, 3) for value in alone}) == 3
    too_long = await judge(conversation("Hi", "word " * 900), PLAIN)
    assert too_long.value is None
    assert "exceeds the context of 512 tokens" in too_long.reason


def test_a_reward_model_that_is_not_there_is_refused(reward_folder: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the folder has no config\.json"):
        reward_model(str(tmp_path))
    with pytest.raises(ConfigError, match="has no label 'good': choose from LABEL_0"):
        reward_model(reward_folder, label="good")
