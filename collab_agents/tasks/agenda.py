"""A user's agenda: the facts behind a goal, and how to tell in plain text what asks for them and what has them."""

import re
from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from collab_agents._internal.reasons import first_problem
from collab_agents.tasks.questions import questions
from collab_agents.tasks.task import Task


class Fact(BaseModel):
    """One hidden fact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    """What a complaint calls the fact ("date")."""
    value: str = Field(min_length=1)
    """What the finished text must contain."""
    tell: str = Field(min_length=1)
    """The sentence with which the user reveals the fact; it contains the value."""
    ask: tuple[str, ...] = ()
    """Words that ask for the fact when they are in a question ("when", "what day")."""
    aliases: tuple[str, ...] = ()
    """Other spellings of the value that count."""
    mistakes: tuple[str, ...] = ()
    """Values that a user may give by mistake, or want first; without any, a rule makes one from the value."""

    def is_in(self, text: str) -> bool:
        """Whether the value or an alias stands in the text as whole words.

        Case, punctuation and the determiner before it are ignored: "my birthday" is in "Lena's birthday".
        """
        words = _words(text)
        return any(f" {needle} " in words for needle in _needles(self))

    def is_mistaken_in(self, text: str, value: str) -> bool:
        """Whether this other value stands in the text, and the right one does not."""
        return times(text, value) > 0 and not self.is_in(text)

    def is_asked_in(self, question: str) -> bool:
        words = _words(question)
        return any(f" {needle} " in words for needle in _asks(self))


class Agenda(BaseModel):
    """The opening request, and the facts the user keeps until asked or until a draft lacks them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    opening: str = Field(min_length=1)
    facts: tuple[Fact, ...] = Field(min_length=1)

    @classmethod
    def of(cls, task: Task) -> "Agenda | None":
        """The task's agenda (`metadata["agenda"]`), or None. Raises pydantic's ValidationError for a broken one."""
        raw = task.metadata.get("agenda")
        return None if raw is None else cls.model_validate(raw)

    @classmethod
    def problem_in(cls, task: Task) -> str | None:
        """Why the task cannot be played or judged by its agenda, as a clause, or None."""
        try:
            agenda = cls.of(task)
        except ValidationError as error:
            return f"task {task.id!r}: metadata.agenda.{first_problem(error)}"
        return None if agenda else f"task {task.id!r} has no metadata.agenda to play or judge by"

    def missing(self, text: str) -> list[Fact]:
        return [fact for fact in self.facts if not fact.is_in(text)]

    def asked(self, message: str) -> list[Fact]:
        """The facts that the message's questions ask for by name."""
        asking = questions(message)
        return [fact for fact in self.facts if any(fact.is_asked_in(question) for question in asking)]


def times(text: str, words: str) -> int:
    """How often the words stand in the text, in the way in which a fact does."""
    return _words(text).count(f" {_bare(_words(words).strip())} ")


def _words(text: str) -> str:
    return " " + " ".join(re.findall(r"[^\W_]+", text.casefold().replace("'", "").replace("’", ""))) + " "


def _bare(words: str) -> str:
    """Without the determiner: who asked for "my birthday" is content with "Lena's birthday"."""
    first, _, rest = words.partition(" ")
    return rest if rest and first in {"a", "an", "the", "my", "our", "your"} else words


@lru_cache(maxsize=4096)
def _needles(fact: Fact) -> tuple[str, ...]:
    return tuple(_bare(_words(needle).strip()) for needle in (fact.value, *fact.aliases))


@lru_cache(maxsize=4096)
def _asks(fact: Fact) -> tuple[str, ...]:
    return tuple(_words(needle).strip() for needle in (fact.name, *fact.ask))
