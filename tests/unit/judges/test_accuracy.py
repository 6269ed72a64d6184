"""Accuracy: which answers agree with a reference, and when a model decides."""

import asyncio
from collections.abc import Callable

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from benchmarks.process import Server
from collab_agents import load_chat_model
from collab_agents.errors import ConfigError
from collab_agents.judges import Conversation, Score, accuracy, load_judge
from collab_agents.tasks import Task
from tests.support.mathematics import PAIRS


def problem(reference: str | None) -> Task:
    return Task(id="p", goal="You want to know x.", reference=reference)


def answers(*texts: str) -> Conversation:
    messages: list[BaseMessage] = []
    for text in texts:
        messages += [HumanMessage("And?"), AIMessage(text)]
    return Conversation(messages)


async def test_accuracy_agrees_with_answers_labelled_by_hand() -> None:
    assert len(PAIRS) >= 60
    judge = accuracy()
    scores = await asyncio.gather(*(judge(answers(pair.reply), problem(pair.reference)) for pair in PAIRS))
    wrong = [(pair, score) for pair, score in zip(PAIRS, scores, strict=True) if score.value != float(pair.correct)]
    assert not wrong


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        ((r"\boxed{7}", "You're welcome! There are 2 more problems."), 1.0),
        ((r"\boxed{3}", "Sorry, I missed a case. The answer is 7."), 1.0),
        ((r"\boxed{7}", "Sorry, I missed a case. The answer is 3."), 0.0),
        ((r"The answer is \boxed{7}. Would you like me to explain step 2?",), 1.0),
        (("What is the range of x? Is it 7?",), 0.0),
        (("I cannot help with that.",), 0.0),
        (("The answer is 12.", "You're right, I forgot one. It should be 7."), 1.0),
        (("The answer is 7.", "Glad to help with the 3 others!"), 1.0),
        (("That gives x = 7, right?",), 1.0),
        (("The answer is 7 because 2 + 5 = 7 and 9 - 2 = 7.",), 1.0),
        (("### Final Answer\n\n7\n\nThere are 3 more practice problems.",), 1.0),
        (("The answer is −7.",), 0.0),
        (("The answer is 7." + "\n" * 30_000,), 1.0),
        ((), 0.0),
    ],
)
async def test_the_answer_is_the_last_one_that_the_assistant_marks(texts: tuple[str, ...], value: float) -> None:
    score = await accuracy()(answers(*texts), problem("7"))
    assert score.value == value
    assert score.reason


@pytest.mark.parametrize(
    ("reference", "reply", "value"),
    [
        ("New York", "The answer is New York.", 1.0),
        ("New York", "The answer is New Jersey.", 0.0),
        ("B", "The answer is option B.", 1.0),
        ("Tuesday", "The answer is that it would be on Tuesday.", 1.0),
        ("No", "So the answer is no.", 1.0),
        ("No", "So the answer is yes.", 0.0),
        ("2024-01-02", r"\boxed{2021}", 0.0),
        ("3:30 PM", r"\boxed{3:30 PM}", 1.0),
        ("-3", "The answer is negative 3.", 1.0),
        ("-3", "The answer is −3.", 1.0),
        (r"\frac{1}{2}", "The answer is ½.", 1.0),
    ],
)
async def test_words_dates_and_signs_are_compared_as_what_they_are(reference: str, reply: str, value: float) -> None:
    score = await accuracy()(answers(reply), problem(reference))
    assert score.value == value, score.reason


async def test_a_reference_may_be_a_whole_solution() -> None:
    solution = r"We have $x = 3 \cdot 2 = 6$, and so the sum is $\boxed{\frac{13}{2}}$."
    score = await accuracy()(answers(r"The sum is \boxed{6.5}."), problem(solution))
    assert score == Score(1.0, "6.50000000000000 against 13/2")


@pytest.mark.parametrize("reference", [r"\frac{1}{", "???", "see the figure in the book", r"\boxed{}"])
async def test_a_reference_that_cannot_be_parsed_gives_no_score_and_not_zero(reference: str) -> None:
    score = await accuracy()(answers(r"\boxed{7}"), problem(reference))
    assert score.value is None
    assert "is not a mathematical answer that can be parsed" in score.reason
    assert (await accuracy()(answers("7"), problem(None))).reason == "task 'p' has no reference to compare with"


@pytest.mark.parametrize(
    ("reference", "score"),
    [
        ("7", Score(0.0, "the answer takes longer than 3 s to evaluate")),
        (r"7^{8^{9^{9}}}", Score(None, r"the reference '7^{8^{9^{9}}}' takes longer than 3 s to evaluate")),
    ],
)
async def test_an_answer_without_end_is_wrong_and_holds_up_nothing(reference: str, score: Score) -> None:
    judge = accuracy(seconds=3)
    await judge(answers("7"), problem("7"))  # The worker is there now.
    endless = asyncio.ensure_future(judge(answers(r"\boxed{9^{9^{9^{9}}}}"), problem(reference)))
    assert (await judge(answers("7"), problem("7"))).value == 1.0
    assert not endless.done()
    assert await endless == score
    assert (await judge(answers("7"), problem("7"))).value == 1.0


async def test_open_questions_are_judged_by_a_model_that_sees_goal_and_reference(serve: Callable[..., Server]) -> None:
    server = serve("--deterministic", "--log")
    judge = accuracy(load_chat_model("openai:any", base_url=server.url), by="model")
    score = await judge(answers("It is Paris."), Task(id="q", goal="The capital of France?", reference="PARIS, FR"))
    assert score.value in (0.0, 1.0)
    (prompt,) = server.prompts()
    for part in ("It is Paris.", "The capital of France?", "PARIS, FR"):
        assert part in prompt
    assert prompt.index("It is Paris.") < prompt.index("The capital of France?")


async def test_with_a_model_the_answer_is_distilled_first(serve: Callable[..., Server]) -> None:
    server = serve("--deterministic", "--log")
    judge = accuracy(load_chat_model("openai:any", base_url=server.url))
    score = await judge(answers("The answer is 7."), problem("7"))
    assert score.value == 0.0  # The server distils words at random.
    assert "final answer to the problem" in server.prompts()[0]


def test_a_model_is_needed_to_judge_by_one() -> None:
    with pytest.raises(ConfigError, match="by: model needs a model"):
        load_judge("accuracy", options={"by": "model"})
    with pytest.raises(ConfigError, match="by: input should be 'math' or 'model'"):
        load_judge("accuracy", options={"by": "luck"})
