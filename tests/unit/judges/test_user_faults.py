"""The judge `user_faults`: which faults of the simulated user it finds, and what it does not take for one."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from benchmarks.process import Server
from collab_agents import PERSONAS, Persona, Task, load_chat_model, offline_tasks
from collab_agents.errors import ConfigError
from collab_agents.judges import Conversation, Score, user_faults
from tests.support.tasks import DRAFT, party
from tests.support.user_faults import SEEDED, Played, play, with_faults

PLAIN = Task(id="plain", goal="You want a letter to your bank.")
GUARDED = Persona(name="guarded", disclosure="guarded")
OPEN = Persona(name="open", disclosure="open")
FORGETFUL = Persona(name="forgetful", wrong_facts="often")


async def review(played: Played) -> set[str]:
    """The kinds of fault that are found in a conversation."""
    judge = user_faults()
    conversation = Conversation(played.messages, persona=played.persona, stopped=played.stopped)
    score = await judge(conversation, played.task)
    assert score.value == float(not score.faults)
    return set(score.faults)


async def test_seeded_faults_are_found_by_rule_and_clean_users_of_all_personas_are_not_accused() -> None:
    personas = [None, *PERSONAS.values()]
    clean = await play([*offline_tasks("train"), *offline_tasks("test")], personas)
    assert {one.persona for one in clean} == set(personas)
    seeded = list(with_faults(clean, seed=7))
    put_in = Counter(one.seeded for one in seeded if one.seeded)
    assert set(put_in) == set(SEEDED)
    assert min(put_in.values()) >= 40, put_in
    assert len(clean) >= 240

    found = [(one, await review(one)) for one in [*clean, *seeded]]
    hits = Counter(one.seeded for one, kinds in found if one.seeded and one.seeded in kinds)
    accused = Counter(kind for one, kinds in found for kind in kinds if kind != one.seeded)
    recall = {kind: hits[kind] / count for kind, count in put_in.items()}
    assert hits.total() / len(seeded) >= 0.9, recall
    assert min(recall.values()) >= 0.8, recall
    assert hits.total() / (hits.total() + accused.total()) >= 0.8, accused
    wrongly = sum(bool(kinds) for one, kinds in found if one.seeded is None)
    assert wrongly / len(clean) <= 0.02, accused


async def faults(
    *said: str, task: Task | None = None, persona: Persona | None = None, stopped: Any = "max_turns", start: int = 0
) -> tuple[str, ...]:
    """What is found where user and assistant say these things in turn."""
    kinds: list[type[BaseMessage]] = [HumanMessage, AIMessage]
    messages = [kinds[index % 2](text) for index, text in enumerate(said)]
    conversation = Conversation(messages, persona=persona, stopped=stopped, start=start)
    return (await user_faults()(conversation, task or party())).faults


ASK = "Can you write an invitation?"
WHICH = "Gladly. When is it, and where?"
LACKING = DRAFT.replace("at the Blue Barn", "at a place that we will tell you soon")


@pytest.mark.parametrize(
    "said",
    [
        ("hi, i want to throw a party. help me invite people", WHICH, "sat 14 june, at the blue barn"),
        (
            "I need an invite for a party on Saturday 14 June",
            "Where is it?",
            "Blue Barn",
            "And what to wear?",
            "White.",
        ),
        (ASK, LACKING, "You wrote a place that we will tell you soon, but it's at the Blue Barn!", DRAFT),
        (ASK, LACKING, "The place is missing: the Blue Barn.", LACKING, "The place is missing: the Blue Barn.", DRAFT),
        (ASK, DRAFT.replace("14", "15"), "Not on Saturday 15 June, the date is Saturday 14 June.", DRAFT),
        (ASK, DRAFT.replace("14", "15"), "It isn't Saturday 15 June.", DRAFT),
        (ASK, "Is it a big party?", "Could be 40 people or so.", WHICH, "At the Blue Barn. You can pick the date."),
        (
            ASK,
            "What is the tone?",
            "Up to you.",
            "How long should it be?",
            "Up to you.",
            "Should it rhyme?",
            "Up to you.",
        ),
        (ASK, WHICH, "What do you mean, where? At the Blue Barn, of course. Why do you ask?", WHICH),
    ],
)
async def test_users_in_other_words_than_the_agendas_are_not_accused(said: tuple[str, ...]) -> None:
    assert await faults(*said) == ()


@pytest.mark.parametrize(
    ("said", "options", "kind"),
    [
        (("Invitation for Saturday 14 June, the Blue Barn, all in white.", WHICH), {}, "tells_at_once"),
        ((ASK, "Sure!", "Saturday 14 June, Blue Barn.", WHICH), {"persona": GUARDED}, "tells_at_once"),
        ((ASK, WHICH, "Sunday 15 June. At the Blue Barn.", DRAFT), {}, "contradicts"),
        ((ASK, WHICH, "Saturday 14 June.", WHICH, "It is on Friday 13 June."), {"persona": FORGETFUL}, "contradicts"),
        ((ASK, WHICH, "When is the party? And where do you want to have it?"), {}, "speaks_as_assistant"),
        ((ASK, WHICH, "Of course! Here is your invitation, I hope that you like it."), {}, "speaks_as_assistant"),
        ((ASK, LACKING, LACKING), {}, "speaks_as_assistant"),
        ((ASK, WHICH, "Thanks, bye!"), {"stopped": "user"}, "ends_early"),
        ((ASK, LACKING), {"stopped": "user"}, "ends_early"),
        ((ASK, DRAFT, "Lovely. Can you make it rhyme?", "No."), {}, "goes_on"),
        ((ASK, WHICH, "can you write an invitation", WHICH), {}, "repeats"),
    ],
)
async def test_each_kind_of_fault_is_found_by_rule(said: tuple[str, ...], options: dict[str, Any], kind: str) -> None:
    assert await faults(*said, **options) == (kind,)


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ((ASK, WHICH, "It is on Friday 13 June. It is at the Blue Barn."), {"persona": FORGETFUL}),
        (
            ("Invitation for Saturday 14 June, the Blue Barn, all in white.", WHICH),
            {"persona": PERSONAS["club-secretary"]},
        ),
        ((ASK, WHICH, "Never mind."), {"persona": Persona(name="p", patience=1), "stopped": "user"}),
        ((ASK, DRAFT, "Thanks, that is just right!"), {"stopped": "user"}),
        ((ASK, DRAFT.replace("Saturday 14 June", "Saturday, the 14 of June"), "Thanks!"), {"stopped": "user"}),
        ((ASK, DRAFT), {"stopped": "user"}),
    ],
)
async def test_what_the_persona_or_the_goal_allows_is_no_fault(said: tuple[str, ...], options: dict[str, Any]) -> None:
    assert await faults(*said, **options) == ()


async def test_of_a_future_only_its_own_messages_are_reviewed() -> None:
    said = (ASK, WHICH, "Sunday 15 June. At the Blue Barn.", "What should people wear?", "All in white.", DRAFT)
    assert await faults(*said, start=2) == ("contradicts",)
    assert await faults(*said, start=4) == ()
    assert await faults(*said, ASK, start=4) == ("goes_on", "repeats")
    assert (await user_faults()(Conversation([HumanMessage(ASK), AIMessage(DRAFT)], start=2), party())).value == 1.0


async def test_the_reason_names_the_message_and_what_is_wrong_with_it() -> None:
    messages = [HumanMessage(ASK), AIMessage(WHICH), HumanMessage("On Sunday 15 June."), AIMessage(DRAFT)]
    score = await user_faults()(Conversation(messages), party())
    why = "it says that the date is 'Sunday 15 June', and it is 'Saturday 14 June'"
    assert score == Score(0.0, f"contradicts in the user's message 2: {why}", ("contradicts",))


async def test_tasks_without_an_agenda_are_reviewed_by_a_model(serve: Callable[..., Server]) -> None:
    server = serve("--log", "--deterministic")
    model = load_chat_model("openai:any", base_url=server.url)
    messages = [HumanMessage("A letter, please."), AIMessage("Here."), HumanMessage("Thanks </goal>"), AIMessage("Hm.")]
    about = Conversation(messages, persona=PERSONAS["ward-nurse"], start=2)
    found = [await user_faults(model)(Conversation(messages, seed, start=2), PLAIN) for seed in range(12)]
    assert {score.value for score in found} == {0.0, 1.0}
    for score in found:
        assert score.value == float(not score.faults)
        assert all(kind in SEEDED and f"{kind} in the user's message 2: " in score.reason for kind in score.faults)
    assert (await user_faults(model)(about, party())).value is not None
    assert server.stats()["calls"] == 12, "a task with an agenda is reviewed by rule"
    await user_faults(model, by="model")(about, party())
    prompt = server.prompts()[-1]
    assert "You are a nurse" in prompt
    assert party().goal in prompt
    assert "Review those from number 2 on" in prompt

    garbage = load_chat_model("openai:any", base_url=serve("--garbage-rate", "1").url)
    score = await user_faults(garbage)(about, PLAIN)
    assert score.value is None
    assert "no usable UserReview in 4 answers" in score.reason


async def test_a_user_that_cannot_be_reviewed_gets_no_score_and_a_reason() -> None:
    score = await user_faults()(Conversation([HumanMessage("Hi"), AIMessage("Hi")]), PLAIN)
    assert score.value is None
    assert score.reason.startswith("task 'plain' has no metadata.agenda")
    assert score.reason.endswith("to review the user of tasks without an agenda, give user_faults a model")
    with pytest.raises(ConfigError, match="judge 'user_faults': by: model needs a model"):
        user_faults(by="model")
