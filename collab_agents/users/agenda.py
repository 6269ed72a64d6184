import random
from collections.abc import Sequence

from langchain_core.messages import BaseMessage, HumanMessage

from collab_agents._internal.seeds import derive_seed
from collab_agents.errors import ConfigError
from collab_agents.messages import replies as said_by_assistant
from collab_agents.participants import Memory, UserContext
from collab_agents.personas import Persona
from collab_agents.tasks.agenda import Agenda, Fact
from collab_agents.tasks.questions import is_draft, is_open_question, questions
from collab_agents.tasks.task import Task
from collab_agents.users.base import closing
from collab_agents.users.slips import misspell, mistaken, telling
from collab_agents.users.wording import LANGUAGES, WORDINGS

_ANSWERS_AT_ONCE = {"guarded": 1, "normal": 3, "open": 99}
_COMPLAINTS_AT_ONCE = {"terse": 1, "normal": 2, "chatty": 99}
_MISSPELT = {"never": 0.0, "sometimes": 0.05, "often": 0.2}
_WRONG_AT_FIRST = {"never": 0.0, "sometimes": 0.15, "often": 0.4}
_COURTEOUS = 0.5
_DEFAULT = Persona(name="default")


class AgendaUser:
    """A rule-based user that works through a task's agenda and needs no model.

    This is the agenda-based user simulator of Schatzmann et al., "Agenda-Based User Simulation" (NAACL 2007), with
    messages in words. The task must have an agenda (`metadata["agenda"]`). The user opens with the agenda's request and
    keeps the facts to itself until they are needed:

    - A question that asks for a fact is answered with it.
    - An open question ("any other details?") is answered with some facts that are still untold.
    - A draft that lacks facts gets a complaint that names them.
    - A complete draft gets thanks, and the conversation ends.

    The user gives up after as many replies as the persona's `patience`. `Persona` describes the effect of its other
    fields. The user is deterministic given the seed.

    Its memory holds:

    - `told`: the names of the facts told.
    - `replies`: how many replies it has made.
    - `errors`: counts of `typos` (misspelt words), `wrong_facts` and `changes_of_mind` (facts first told with another
      value).
    - `wrong_facts`, `changes_of_mind`: by fact, the wrong values that are still to be corrected.

    Example:
        task = offline_tasks()[0]
        message, memory = await AgendaUser().respond([], {}, UserContext(task=task, persona=PERSONAS["ward-nurse"]))
    """

    def problem_with(self, task: Task) -> str | None:
        """Return why the task cannot be played, or None."""
        problem = Agenda.problem_in(task)
        return problem and f"{problem}; for tasks without an agenda use kind: llm"

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: UserContext
    ) -> tuple[BaseMessage | None, Memory]:
        agenda = Agenda.of(context.task)
        if agenda is None:
            raise ConfigError(f"task {context.task.id!r} has no metadata.agenda, which an agenda user needs")
        persona = context.persona or _DEFAULT
        turn = _NextMessage(agenda, persona, memory, context.seed)
        replies = memory.get("replies", 0)
        if not messages or messages[-1].type not in ("ai", "tool"):
            return HumanMessage(turn.spelt(turn.open())), turn.remembered(replies)
        said = said_by_assistant(messages)[-1]
        if is_draft(said) and not agenda.missing(said):
            return closing(turn.spelt(turn.thank())), turn.remembered(replies)
        if replies >= persona.patience:
            return closing(turn.spelt(turn.give_up())), turn.remembered(replies)
        return HumanMessage(turn.spelt(turn.answer(said))), turn.remembered(replies + 1)


class _NextMessage:
    """Composes one message, and records the facts told in it.

    Attributes:
        settled: Facts for which the message already announces a change of mind.
        noticed: Facts with a wrong value, told by the user, that appears in the draft being answered.
    """

    def __init__(self, agenda: Agenda, persona: Persona, memory: Memory, seed: int) -> None:
        self.agenda = agenda
        self.persona = persona
        self.memory = memory
        self.wording = WORDINGS[persona.tone]
        self.told: list[str] = list(memory.get("told", []))
        self.wrong: dict[str, str] = dict(memory.get("wrong_facts", {}))
        self.wavering: dict[str, str] = dict(memory.get("changes_of_mind", {}))
        self.errors: dict[str, int] = {"typos": 0, "wrong_facts": 0, "changes_of_mind": 0} | memory.get("errors", {})
        self.settled: set[str] = set()
        self.noticed: set[str] = set()
        self.chance = random.Random(seed)
        # Separate generators, so that a persona without habits draws the same as if habits did not exist.
        self.manners = random.Random(derive_seed(seed, "manners"))
        self.lapses = random.Random(derive_seed(seed, "lapses"))

    def remembered(self, replies: int) -> Memory:
        now = {"told": self.told, "replies": replies, "errors": self.errors}
        return {**self.memory, **now, "wrong_facts": self.wrong, "changes_of_mind": self.wavering}

    def spelt(self, text: str) -> str:
        """Return the text as the persona types it."""
        wrong = [*self.wrong.values(), *self.wavering.values()]
        needed = [words for fact in self.agenda.facts for words in (fact.name, fact.value, *fact.aliases)] + wrong
        text, slips = misspell(text, _MISSPELT[self.persona.typos], self.lapses, needed)
        self.errors["typos"] += slips
        return text

    def open(self) -> str:
        greeting, _ = LANGUAGES.get(self.persona.language, (self.wording.greeting, ""))
        parts = [greeting, self.agenda.opening]
        if self.persona.disclosure == "open":
            parts.append(self._tell(self.chance.choice(self.agenda.facts)))
        return " ".join(part for part in parts if part)

    def thank(self) -> str:
        _, thanks = LANGUAGES.get(self.persona.language, ("", ""))
        return f"{self.chance.choice(self.wording.thanks)} {thanks}".strip()

    def give_up(self) -> str:
        return self.chance.choice(self.wording.farewells)

    def answer(self, said: str) -> str:
        parts = self._second_thoughts()
        if is_draft(said):
            wrong = [fact for fact in self.agenda.facts if fact.name in self.wrong]
            self.noticed = {fact.name for fact in wrong if fact.is_mistaken_in(said, self.wrong[fact.name])}
        more = self._answers(said)
        if is_draft(said) and not more:
            more = self._complaints(said)
        parts += more
        if not parts:
            parts = [self.chance.choice(self._passing(said))]
        if self.wording.courtesies and self.manners.random() < _COURTEOUS:
            parts.append(self.manners.choice(self.wording.courtesies))
        return " ".join(parts)

    def _second_thoughts(self) -> list[str]:
        changed = [fact for fact in self.agenda.facts if fact.name in self.wavering]
        self.wavering = {}
        self.settled = {fact.name for fact in changed}
        return [self._word(self.wording.second_thoughts, fact, fact.tell) for fact in changed]

    def _answers(self, said: str) -> list[str]:
        room = _ANSWERS_AT_ONCE[self.persona.disclosure]
        asked = [fact for fact in self.agenda.asked(said) if fact.name not in self.settled][:room]
        if not asked and any(is_open_question(question) for question in questions(said)):
            asked = self._volunteered(room)
        return [self._tell(fact) for fact in asked]

    def _volunteered(self, room: int) -> list[Fact]:
        """Return the facts with which an open question is answered."""
        untold = [fact for fact in self.agenda.facts if fact.name not in self.told]
        if not untold or self.persona.expertise == "novice":
            return []
        if self.persona.expertise == "expert":
            return self.chance.sample(untold, min(room, len(untold)))
        return [self.chance.choice(untold)]

    def _complaints(self, draft: str) -> list[str]:
        missing = [fact for fact in self.agenda.missing(draft) if fact.name not in self.settled]
        # Facts that were told and are still missing come first.
        missing.sort(key=lambda fact: (fact.name not in self.told, self.chance.random()))
        room = _COMPLAINTS_AT_ONCE[self.persona.verbosity]
        return [
            self._tell(fact)
            if fact.name in self.noticed
            else self._word(self.wording.complaints, fact, self._tell(fact))
            for fact in missing[:room]
        ]

    def _passing(self, said: str) -> tuple[str, ...]:
        """Return the phrases to choose from if there is nothing to tell."""
        asked = questions(said)
        if not asked:
            return self.wording.nudges
        clueless = self.persona.expertise == "novice" and any(is_open_question(question) for question in asked)
        return self.wording.clueless if clueless else self.wording.fillers

    def _tell(self, fact: Fact) -> str:
        if fact.name in self.noticed:
            del self.wrong[fact.name]
            return self._word(self.wording.corrections, fact, fact.tell)
        if fact.name in self.wrong:
            return telling(fact, self.wrong[fact.name])
        if fact.name in self.told:
            return fact.tell
        self.told.append(fact.name)
        value = self._lapse(fact)
        return fact.tell if value is None else telling(fact, value)

    def _lapse(self, fact: Fact) -> str | None:
        """Return the wrong value with which the fact is told first, or None for the right one."""
        drawn = self.lapses.random()
        wrong = _WRONG_AT_FIRST[self.persona.wrong_facts]
        if drawn >= wrong + _WRONG_AT_FIRST[self.persona.changes_of_mind]:
            return None
        value = mistaken(fact, self.lapses)
        if value is None:
            return None
        habit, kept = ("wrong_facts", self.wrong) if drawn < wrong else ("changes_of_mind", self.wavering)
        self.errors[habit] += 1
        kept[fact.name] = value
        return value

    def _word(self, phrases: tuple[str, ...], fact: Fact, tell: str) -> str:
        return self.chance.choice(phrases).format(name=fact.name, tell=tell)
