import random
from collections.abc import Sequence

from langchain_core.messages import BaseMessage, HumanMessage

from collab_agents.errors import ConfigError
from collab_agents.messages import replies as said_by_assistant
from collab_agents.personas import Persona
from collab_agents.questions import is_draft, is_open_question, questions
from collab_agents.tasks.agenda import Agenda, Fact
from collab_agents.tasks.task import Task
from collab_agents.users.base import Memory, closing

_ANSWERS_AT_ONCE = {"guarded": 1, "normal": 3, "open": 99}
_COMPLAINTS_AT_ONCE = {"terse": 1, "normal": 2, "chatty": 99}
_COMPLAINTS = (
    "The {name} is missing. {tell}",
    "You left out the {name}. {tell}",
    "It does not say the {name}. {tell}",
)
_FILLERS = ("No preference there.", "That does not matter to me.", "Up to you.")
_NUDGES = ("Please go ahead with it.", "Could you write it, please?", "I would like to see it now.")
_DEFAULT = Persona(name="default")


class AgendaUser:
    """The agenda-based user simulator (Schatzmann et al., NAACL 2007, "Agenda-Based User Simulation"), in words.

    It needs a task with an agenda (`metadata["agenda"]`) and no model. It opens with the agenda's request and keeps
    the facts to itself. A question that asks for a fact gets it; an open question ("any other details?") gets one
    that is still untold; a draft that lacks facts gets a complaint that names them; a complete draft gets thanks,
    and that is the end. After as many replies as the persona has patience it gives up. How many answers and
    complaints fit in one message is the persona's disclosure and verbosity. Deterministic given the seed.
    """

    def problem_with(self, task: Task) -> str | None:
        """Why the task cannot be played, or None."""
        return Agenda.problem_in(task)

    async def respond(self, messages: Sequence[BaseMessage], memory: Memory) -> tuple[BaseMessage | None, Memory]:
        task: Task = memory["task"]
        agenda = Agenda.of(task)
        if agenda is None:
            raise ConfigError(f"task {task.id!r} has no metadata.agenda, which an agenda user plays")
        persona: Persona = memory.get("persona") or _DEFAULT
        chance = random.Random(memory["seed"])
        turn = _Turn(agenda, persona, list(memory.get("told", [])), chance)
        replies = memory.get("replies", 0)
        if not messages or messages[-1].type not in ("ai", "tool"):
            return turn.finish(turn.open(), memory, replies)
        said = said_by_assistant(messages)[-1]
        if is_draft(said) and not agenda.missing(said):
            return closing(chance.choice(("That is just right, thank you!", "Perfect, thanks a lot."))), memory
        if replies >= persona.patience:
            return closing(chance.choice(("Never mind, I will do it myself.", "This takes too long, bye."))), memory
        return turn.finish(turn.answer(said), memory, replies + 1)


class _Turn:
    """One reply in the making: what is told in it is noted as it is put into words."""

    def __init__(self, agenda: Agenda, persona: Persona, told: list[str], chance: random.Random) -> None:
        self.agenda = agenda
        self.persona = persona
        self.told = told
        self.chance = chance

    def finish(self, text: str, memory: Memory, replies: int) -> tuple[BaseMessage, Memory]:
        return HumanMessage(text), {**memory, "told": self.told, "replies": replies}

    def open(self) -> str:
        if self.persona.disclosure != "open":
            return self.agenda.opening
        return f"{self.agenda.opening} {self._tell(self.chance.choice(self.agenda.facts))}"

    def answer(self, said: str) -> str:
        parts = self._answers(said)
        if is_draft(said) and not parts:
            parts = self._complaints(said)
        if not parts:
            parts = [self.chance.choice(_FILLERS if questions(said) else _NUDGES)]
        return " ".join(parts)

    def _answers(self, said: str) -> list[str]:
        room = _ANSWERS_AT_ONCE[self.persona.disclosure]
        asked = self.agenda.asked(said)[:room]
        if not asked and any(is_open_question(question) for question in questions(said)):
            untold = [fact for fact in self.agenda.facts if fact.name not in self.told]
            asked = [self.chance.choice(untold)] if untold else []
        return [self._tell(fact) for fact in asked]

    def _complaints(self, draft: str) -> list[str]:
        missing = self.agenda.missing(draft)
        # What was told and is still left out annoys first.
        missing.sort(key=lambda fact: (fact.name not in self.told, self.chance.random()))
        room = _COMPLAINTS_AT_ONCE[self.persona.verbosity]
        return [
            self.chance.choice(_COMPLAINTS).format(name=fact.name, tell=self._tell(fact)) for fact in missing[:room]
        ]

    def _tell(self, fact: Fact) -> str:
        if fact.name not in self.told:
            self.told.append(fact.name)
        return fact.tell
