"""Simulated users: what an agenda user tells and when, and how an LLM user's answers are read."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from benchmarks.process import Server
from collab_agents import AgendaUser, LLMUser, Persona, ScriptedUser, load_chat_model
from collab_agents.errors import ConfigError, UnusableReply
from collab_agents.graphs import create_conversation_graph
from collab_agents.models.ask import parse
from collab_agents.participants import UserContext
from collab_agents.tasks import Agenda, Task
from collab_agents.users import Memory, as_user, is_closing
from collab_agents.users.llm import UserReply
from collab_agents.users.wording import WORDINGS
from tests.support.tasks import DRAFT, party


async def talk(
    said: list[str], *, persona: Persona | None = None, seed: int = 0, task: Task | None = None
) -> list[BaseMessage]:
    """The agenda user's messages in a conversation where the assistant says these things in turn."""
    user = AgendaUser()
    memory: Memory = {}
    messages: list[BaseMessage] = []
    for line in [None, *said]:
        if line is not None:
            messages.append(AIMessage(line))
        context = UserContext(task=task or party(), persona=persona, seed=seed + len(messages))
        message, memory = await user.respond(messages, memory, context)
        assert message is not None
        messages.append(message)
    return [message for message in messages if message.type == "human"]


def text(message: BaseMessage) -> str:
    assert isinstance(message.content, str)
    return message.content


async def test_an_agenda_user_opens_vaguely_and_tells_what_it_is_asked() -> None:
    opening, answer = await talk(["Happy to help! When is the party, and where?"])
    assert text(opening) == "Can you write an invitation?"
    assert "Saturday 14 June" in text(answer)
    assert "the Blue Barn" in text(answer)
    assert "white" not in text(answer)


async def test_a_draft_that_lacks_facts_gets_a_complaint_that_names_them() -> None:
    _, complaint = await talk(["Dear friends, " + "we would love to see you at our party. " * 4])
    agenda = Agenda.of(party())
    assert agenda is not None
    assert any(fact.name in text(complaint) and fact.value in text(complaint) for fact in agenda.facts)


async def test_what_was_told_and_is_left_out_is_complained_of_first() -> None:
    draft = "We would love to see you at our party, dear friends, and hope that you will bring your best mood along."
    *_, complaint = await talk(["Where is it?", draft], persona=Persona(name="p", verbosity="terse"))
    assert "the Blue Barn" in text(complaint)


async def test_a_complete_draft_ends_the_conversation_with_thanks() -> None:
    *_, last = await talk([DRAFT])
    assert is_closing(last)
    assert "thank" in text(last).lower()


async def test_the_user_gives_up_when_its_patience_is_gone() -> None:
    said = await talk(["Hm."] * 3, persona=Persona(name="p", patience=2))
    assert [is_closing(message) for message in said] == [False, False, False, True]


async def test_disclosure_decides_how_much_is_told_at_once() -> None:
    question = "When is it? Where is it? What should people wear?"
    told = {}
    for disclosure in ("guarded", "open"):
        persona = Persona.model_validate({"name": "p", "disclosure": disclosure})
        _, answer = await talk([question], persona=persona)
        agenda = Agenda.of(party())
        assert agenda is not None
        told[disclosure] = sum(fact.is_in(text(answer)) for fact in agenda.facts)
    assert told == {"guarded": 1, "open": 3}


@given(st.lists(st.text(max_size=200), max_size=5), st.integers(0, 2**31))
async def test_the_same_seed_gives_the_same_user_whatever_is_said_to_it(said: list[str], seed: int) -> None:
    said = [line or "?" for line in said]
    persona = Persona(name="p", patience=9)
    first, second = [await _texts(said, persona, seed) for _ in range(2)]
    assert first == second


async def _texts(said: list[str], persona: Persona, seed: int) -> list[str]:
    return [text(message) for message in await talk(said, persona=persona, seed=seed)]


OPEN = "Any other details?"


@pytest.mark.parametrize(
    ("expertise", "disclosure", "told"),
    [("novice", "open", 1), ("intermediate", "normal", 1), ("expert", "guarded", 1), ("expert", "normal", 3)],
)
async def test_expertise_decides_what_an_open_question_gets(expertise: str, disclosure: str, told: int) -> None:
    """An open user has opened with a fact."""
    persona = Persona.model_validate({"name": "p", "expertise": expertise, "disclosure": disclosure})
    messages = await talk([OPEN], persona=persona)
    agenda = Agenda.of(party())
    assert agenda is not None
    assert sum(any(fact.is_in(text(message)) for message in messages) for fact in agenda.facts) == told
    clueless = WORDINGS["neutral"].clueless
    assert (text(messages[-1]) in clueless) == (expertise == "novice")


@pytest.mark.parametrize("tone", ["friendly", "formal", "brusque"])
async def test_a_tone_has_words_of_its_own_and_the_same_facts(tone: str) -> None:
    said = ["Hm.", "Where is it?", "Do you like cats?", "We would love to see you at our party. " * 4, DRAFT]
    neutral = await talk(said, persona=Persona(name="p"))
    other = await talk(said, persona=Persona.model_validate({"name": "p", "tone": tone}))
    agenda = Agenda.of(party())
    assert agenda is not None
    for one, two in zip(neutral, other, strict=True):
        assert [fact.is_in(text(one)) for fact in agenda.facts] == [fact.is_in(text(two)) for fact in agenda.facts]
        assert is_closing(one) == is_closing(two)
    differ = [text(one) != text(two) for one, two in zip(neutral, other, strict=True)]
    assert all(differ[3:]), "complaints and thanks are worded by the tone"
    assert differ[0] == (tone != "brusque"), "who is friendly or formal greets"


async def test_a_user_of_another_language_greets_and_thanks_in_it() -> None:
    opening, thanks = await talk([DRAFT], persona=Persona(name="p", language="Turkish"))
    assert text(opening) == "Merhaba! Can you write an invitation?"
    assert text(thanks).endswith("Teşekkürler!")


@given(st.integers(0, 2**31), st.lists(st.sampled_from([OPEN, "When and where is it?", "Hm.", DRAFT[:60]]), max_size=4))
async def test_typos_spare_what_a_message_is_for(seed: int, said: list[str]) -> None:
    careful, careless = Persona(name="p", patience=3), Persona(name="p", patience=3, typos="often")
    agenda = Agenda.of(party())
    assert agenda is not None
    for right, typed in zip(
        await talk(said, persona=careful, seed=seed), await talk(said, persona=careless, seed=seed), strict=True
    ):
        assert is_closing(right) == is_closing(typed)
        assert len(text(right).split()) == len(text(typed).split())
        assert [fact.is_in(text(right)) for fact in agenda.facts] == [fact.is_in(text(typed)) for fact in agenda.facts]
        assert [fact.name in text(right) for fact in agenda.facts] == [
            fact.name in text(typed) for fact in agenda.facts
        ]


async def misled(habit: str, said: list[str]) -> list[str]:
    """What a user says that is asked for the date and has told it wrong at first."""
    for seed in range(100):
        persona = Persona.model_validate({"name": "p", habit: "often"})
        texts = [text(message) for message in await talk(["When is it?", *said], persona=persona, seed=seed)]
        if "Saturday 14 June" not in texts[1]:
            return texts
    raise AssertionError(f"with {habit} often, nothing was told wrong in 100 conversations")


async def test_a_wrong_fact_is_kept_to_until_a_draft_has_it() -> None:
    _, wrong, *_ = await misled("wrong_facts", [])
    told = wrong.removeprefix("It is on ").removesuffix(".")
    assert (told.split()[0] == "Saturday") + (told.split()[1] == "14") + (told.split()[2] == "June") == 2
    draft = DRAFT.replace("Saturday 14 June", told)
    *_, again, noticed, last = await misled("wrong_facts", ["When was it?", draft, DRAFT])
    assert again == wrong
    assert "wrong" in noticed
    assert "date" in noticed
    assert "It is on Saturday 14 June." in noticed
    assert "thank" in last.lower()


async def test_a_change_of_mind_is_said_in_the_next_message() -> None:
    *_, changed, asked = await misled("changes_of_mind", ["Where is it?", "When was it?"])
    assert "date" in changed
    assert "It is on Saturday 14 June." in changed
    assert "the Blue Barn" in changed, "what was asked is answered too"
    assert asked == "It is on Saturday 14 June."


async def test_a_fact_without_a_plausible_mistake_is_told_right() -> None:
    persona = Persona(name="p", wrong_facts="often", changes_of_mind="often")
    for seed in range(50):
        _, answer = await talk(["Where is it?"], persona=persona, seed=seed)
        assert text(answer) == "It is at the Blue Barn."


async def test_a_task_without_an_agenda_is_refused_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"task 'x' has no metadata\.agenda"):
        await talk([], task=Task(id="x", goal="y"))


async def test_a_scripted_user_says_its_lines_and_ends() -> None:
    user = ScriptedUser(["Hello: {goal}"])
    context = UserContext(task=Task(id="x", goal="the goal"))
    message, _ = await user.respond([], {}, context)
    assert message is not None
    assert message.content == "Hello: the goal"
    assert (await user.respond([message, AIMessage("hi")], {}, context))[0] is None


async def test_an_async_function_is_a_user() -> None:
    async def echo(messages: Any, memory: Memory) -> tuple[BaseMessage, Memory]:
        return HumanMessage("again"), memory

    message, _ = await as_user(echo).respond([], {}, UserContext(task=party()))
    assert message is not None
    assert message.content == "again"
    with pytest.raises(TypeError, match="got int"):
        as_user(3)  # type: ignore[arg-type]


async def test_a_user_takes_the_context_or_leaves_it_out() -> None:
    async def told(messages: Any, memory: Memory, context: UserContext) -> tuple[BaseMessage, Memory]:
        return HumanMessage(f"{context.task.id} {context.persona and context.persona.name} {memory}"), memory

    async def untold(messages: Any, memory: Memory) -> tuple[BaseMessage, Memory]:
        return HumanMessage(str(memory)), memory

    async def shouting(messages: Any, memory: Memory, mark: str = "!") -> tuple[BaseMessage, Memory]:
        return HumanMessage(mark), memory

    class Untold:
        async def respond(self, messages: Any, memory: Memory) -> tuple[BaseMessage, Memory]:
            return await untold(messages, memory)

    users: list[Any] = [told, untold, shouting, Untold()]
    graphs = [create_conversation_graph(user, SILENT, max_exchanges=1) for user in users]
    scene = {"messages": [], "task": party(), "persona": Persona(name="p")}
    said = [(await graph.ainvoke(scene))["messages"][0].content for graph in graphs]
    assert said == ["party p {}", "{}", "!", "{}"]


class Silent:
    """An assistant that says nothing much, and takes no context."""

    async def respond(self, messages: Any, memory: Memory) -> tuple[list[BaseMessage], Memory]:
        return [AIMessage("Hm.")], memory


SILENT: Any = Silent()
CONTEXT = UserContext(task=party(), persona=Persona(name="p", background="You breed parrots."), seed=1)


async def test_an_llm_user_plays_goal_and_persona_through_a_model(serve: Callable[..., Server]) -> None:
    server = serve("--log")
    user = LLMUser(load_chat_model("openai:any", base_url=server.url))
    message, _ = await user.respond([HumanMessage("Hello"), AIMessage("What is it about?")], {}, CONTEXT)
    assert message is not None
    assert not is_closing(message)
    (prompt,) = server.prompts()
    assert party().goal in prompt
    assert "You breed parrots." in prompt
    assert prompt.index(party().goal) < prompt.index("What is it about?"), "the history comes after the task"


async def test_an_llm_user_asks_again_when_the_answer_is_garbage(serve: Callable[..., Server]) -> None:
    server = serve("--garbage-rate", "0.5")
    user = LLMUser(load_chat_model("openai:any", base_url=server.url), attempts=20)
    for _ in range(5):
        message, _ = await user.respond([], {}, CONTEXT)
        assert message is not None
        assert "Sorry" not in text(message)
    assert server.stats()["garbage"] > 0


async def test_an_llm_user_gives_up_on_a_model_that_only_gives_garbage(serve: Callable[..., Server]) -> None:
    server = serve("--garbage-rate", "1")
    user = LLMUser(load_chat_model("openai:any", base_url=server.url), attempts=3)
    with pytest.raises(UnusableReply, match="no usable UserReply in 3 answers; the last one: there is no JSON object"):
        await user.respond([], {}, CONTEXT)
    assert server.stats()["calls"] == 3


@pytest.mark.parametrize(
    "answer",
    [
        '{"current_answer": "", "thought": "", "response": "Hi", "end_conversation": false}',
        '```json\n{"response": "Hi"}\n```',
        'Here you are: {"thought": "hm", "response": "Hi"',
        "{'response': 'Hi', 'end_conversation': False}",
        '[{"response": "Hi"}]',
        '{"response": "Hi", "thought": {"a": 1}}',
    ],
)
def test_near_misses_are_repaired(answer: str) -> None:
    assert parse(answer, UserReply).response == "Hi"


@pytest.mark.parametrize("answer", ["", "Hi", '{"response": ""}', '{"response": ["Hi"]}', "{}", "[1, 2]"])
def test_what_is_no_reply_is_not_guessed(answer: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(answer, UserReply)
