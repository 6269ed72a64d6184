"""Conversations of agenda users, and the same ones with a fault of the user put in.

The faults are made with the words of the task and plain string operations, and with none of the code that finds them.
"""

import asyncio
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from collab_agents import AgendaUser, Persona, Task, create_conversation_graph
from collab_agents.judges import FaultKind
from collab_agents.participants import AssistantContext
from collab_agents.users import Memory

PROMISES = ("I will see to it.", "Good, one moment.", "That sounds lovely, leave it to me.", "Of course.")
OPEN = ("What details do you have in mind?", "Is there anything specific to mention?", "Could you share more details?")
LEAD = "Here is the text as far as I can write it today, with all that I remember of what you have told me until now:"


class Moody:
    """An assistant that asks, asks openly, promises, or writes what it remembers, as its seed says."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        chance = random.Random(context.seed)
        mood = chance.choices(("ask", "open", "promise", "draft", "careful"), (4, 1, 1, 3, 2))[0]
        if mood == "ask":
            names = chance.sample(self.names, min(len(self.names), chance.randint(1, 3)))
            said = " ".join(chance.choice(("What is the {}?", "Please tell me the {}.")).format(name) for name in names)
        elif mood == "open":
            said = chance.choice(OPEN)
        elif mood == "promise":
            said = chance.choice(PROMISES)
        else:
            heard = [part for one in messages if one.type == "human" for part in sentences(str(one.content))]
            kept = [part for part in heard if mood == "careful" or chance.random() < 0.7]
            said = " ".join([LEAD, *(part for part in kept if not part.endswith("?"))])
        return [AIMessage(said)], memory


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text)


@dataclass(frozen=True)
class Played:
    """A conversation to review, and the fault that was put in, if one was."""

    task: Task
    persona: Persona | None
    said: tuple[str, ...]
    """User and assistant in turn."""
    stopped: Literal["user", "max_turns"]
    seeded: FaultKind | None = None

    @property
    def messages(self) -> list[BaseMessage]:
        return [AIMessage(text) if index % 2 else HumanMessage(text) for index, text in enumerate(self.said)]

    @property
    def facts(self) -> list[dict[str, Any]]:
        return self.task.metadata["agenda"]["facts"]

    def with_message(self, at: int, text: str, kind: FaultKind) -> "Played":
        """The conversation until the assistant's answer to a message that stands in the place of the user's."""
        answer = (*self.said, PROMISES[0])[at + 1]
        return replace(self, said=(*self.said[:at], text, answer), stopped="max_turns", seeded=kind)

    def told(self, text: str) -> set[str]:
        """The facts whose values stand in a text."""
        return {fact["name"] for fact in self.facts if fact["value"].lower() in text.lower()}


async def play(tasks: Sequence[Task], personas: Sequence[Persona | None]) -> list[Played]:
    """Each persona with a task of its own in turn."""

    async def one(task: Task, persona: Persona | None, seed: int) -> Played:
        names = [fact["name"] for fact in task.metadata["agenda"]["facts"]]
        graph = create_conversation_graph(AgendaUser(), Moody(names), max_exchanges=9)
        end = await graph.ainvoke({"task": task, "persona": persona, "messages": [], "seed": seed})
        return Played(task, persona, tuple(str(message.content) for message in end["messages"]), end["stopped"])

    pairs = [(task, personas[index % len(personas)], index) for index, task in enumerate(tasks)]
    return list(await asyncio.gather(*(one(*pair) for pair in pairs)))


def with_faults(played: Sequence[Played], seed: int) -> Iterator[Played]:
    """Each conversation with each kind of fault that can be put in."""
    for index, one in enumerate(played):
        others = [other for other in played if other.task.kind == one.task.kind and other is not one]
        for kind, put_in in SEEDED.items():
            chance = random.Random(f"{seed} {index} {kind}")
            if faulty := put_in(one, others, chance):
                yield faulty


Put = Callable[[Played, Sequence[Played], random.Random], Played | None]


def tell_at_once(one: Played, others: Sequence[Played], chance: random.Random) -> Played | None:
    """The first message, or one after a promise, has all facts or all but one."""
    if one.persona and one.persona.disclosure == "open":
        return None
    places = [0, *(at for at in range(2, len(one.said), 2) if one.said[at - 1] in PROMISES)]
    at = chance.choice([at for at in places if not one.told(" ".join(one.said[0:at:2]))])
    facts = chance.sample(one.facts, chance.randint(max(3, len(one.facts) - 1), len(one.facts)))
    told = chance.choice(
        (
            " ".join(fact["tell"] for fact in facts),
            f"What I need in it: {'; '.join(fact['name'] + ': ' + fact['value'] for fact in facts)}.",
            f"It has to say {', '.join(fact['value'] for fact in facts[:-1])} and {facts[-1]['value']}.",
        )
    )
    return one.with_message(at, f"{one.said[0]} {told}", "tells_at_once")


def contradict(one: Played, others: Sequence[Played], chance: random.Random) -> Played | None:
    """A fact that was told rightly gets another value, in the same message or in a later one."""
    slips = one.persona and (one.persona.wrong_facts, one.persona.changes_of_mind) != ("never", "never")
    users = range(0, len(one.said) - (one.stopped == "user"), 2)
    told = [(at, fact) for at in users for fact in one.facts if fact["value"].lower() in one.said[at].lower()]
    places: list[tuple[int, str]] = []
    for at, fact in told:
        wrong = chance.choice(fact["mistakes"])
        if wrong in one.task.goal:
            continue
        if not slips:
            places.append((at, re.sub(re.escape(fact["value"]), wrong, one.said[at], flags=re.IGNORECASE)))
        phrase = chance.choice(
            (fact["tell"].replace(fact["value"], wrong), f"Remember, the {fact['name']} is {wrong}.")
        )
        later = [other for other in users if other > at and fact["name"] not in one.told(one.said[other])]
        places += [(other, f"{one.said[other]} {phrase}") for other in later]
    return one.with_message(*chance.choice(places), "contradicts") if places else None


def speak_as_assistant(one: Played, others: Sequence[Played], chance: random.Random) -> Played | None:
    """The user says what this or another conversation's assistant said, or what assistants say."""
    names = [fact["name"] for fact in one.facts]
    lines = [
        f"Certainly! {one.task.reference}",
        f"{one.task.reference}\nI hope that this is what you had in mind.",
        f"Of course, I would be happy to help. What is the {names[0]}? And the {names[1]}?",
        f"Before I write it: what is the {names[0]}? What is the {names[1]}? Which {names[2]} should I put in?",
        f"Could you please tell me the {names[0]}? Could you also share the {names[2]}?",
        "How can I help you with that today?",
        "As an AI assistant I do not have personal preferences.",
        "I have revised the text as you asked. Is there anything else I can do for you?",
        "You're welcome! Let me know if you need any further changes.",
        "Would you like me to add anything to it?",
    ]
    places = list(range(2, len(one.said) - (one.stopped == "user"), 2))
    if not places:
        return None
    at = chance.choice(places)
    heard = [text for text in one.said[1:at:2] if len(text.split()) > 12]
    foreign = [text for other in others for text in other.said[1::2] if text.startswith(LEAD)]
    kinds = [lines, lines, *([heard] if heard else []), *([foreign] if foreign else [])]
    return one.with_message(at, chance.choice(chance.choice(kinds)), "speaks_as_assistant")


def end_early(one: Played, others: Sequence[Played], chance: random.Random) -> Played | None:
    """The user takes its leave, or goes without a word, before a text has every fact and with patience left."""
    patience = one.persona.patience if one.persona else 6
    names = {fact["name"] for fact in one.facts}
    places = [at for at in range(1, len(one.said), 2) if one.told(one.said[at]) < names and (at + 1) // 2 < patience]
    if not places:
        return None
    at = chance.choice(places)
    last = chance.choice(("Great, thank you!", "Thanks, that is all.", "OK, bye.", "I have to go now.", None))
    said = (*one.said[: at + 1], *([last] if last else []))
    return replace(one, said=said, stopped="user", seeded="ends_early")


def go_on(one: Played, others: Sequence[Played], chance: random.Random) -> Played | None:
    """The user has what it wants, and does not end the conversation."""
    names = {fact["name"] for fact in one.facts}
    if one.stopped != "user" or not one.said[-2].startswith(LEAD) or one.told(one.said[-2]) < names:
        return None
    more = ("Thanks! Could you make it a little shorter?", "Hm, let me think about it.", "Can I have a nicer title?")
    return one.with_message(len(one.said) - 1, chance.choice((*more, one.said[-1])), "goes_on")


def repeat(one: Played, others: Sequence[Played], chance: random.Random) -> Played | None:
    """The user says the same again, although the assistant neither asked for it nor left it out."""
    places = []
    for at in range(2, len(one.said), 2):
        heard = one.said[at - 1]
        for earlier in range(0, at, 2):
            told = one.told(one.said[earlier])
            asked = any(name in heard for name in told) or heard in OPEN
            left_out = heard.startswith(LEAD) and not told <= one.told(heard)
            complete = one.told(heard) == {fact["name"] for fact in one.facts}
            if (told or earlier == 0) and not asked and not left_out and not complete:
                places.append((at, one.said[earlier]))
    if not places:
        return None
    at, text = chance.choice(places)
    changed = (text, text.lower(), text.rstrip(".!?"), f"As I said: {text}", f"{text} Please.")
    return one.with_message(at, chance.choice(changed), "repeats")


SEEDED: dict[FaultKind, Put] = {
    "tells_at_once": tell_at_once,
    "contradicts": contradict,
    "speaks_as_assistant": speak_as_assistant,
    "ends_early": end_early,
    "goes_on": go_on,
    "repeats": repeat,
}
