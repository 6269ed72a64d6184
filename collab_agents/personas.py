"""Personas: who the simulated user is."""

import random
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from collab_agents.errors import ConfigError
from collab_agents.seeds import derive_seed


class Persona(BaseModel):
    """Who plays the user. Each field has an effect on the LLM user's prompt and, where told, on the agenda user.

    name: how tables and `run.yaml` call the persona.
    background: a sentence or two of who this is.
    expertise: how well they know the subject.
    patience: the user's replies before giving up (exchanges); agenda users keep to it exactly.
    verbosity: how much they write; agenda users complain of one, two or all missing facts at a time.
    tone: how they write.
    disclosure: what they say unasked; a guarded agenda user answers one question at a time, a normal one up to
        three, an open one all, and an open one starts with a fact.
    instructions: anything else, in words, for LLM users.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    background: str = ""
    expertise: Literal["novice", "intermediate", "expert"] = "intermediate"
    patience: PositiveInt = 6
    verbosity: Literal["terse", "normal", "chatty"] = "normal"
    tone: Literal["neutral", "friendly", "formal", "brusque"] = "neutral"
    disclosure: Literal["guarded", "normal", "open"] = "normal"
    instructions: str = ""

    def describe(self) -> str:
        """The persona in words, as the LLM user's prompt gives it."""
        return "\n".join(
            line
            for line in (
                self.background,
                f"You are {_EXPERTISE[self.expertise]} on this subject.",
                f"You write {_VERBOSITY[self.verbosity]}, and your tone is {self.tone}.",
                _DISCLOSURE[self.disclosure],
                f"You give up if you are not close to your goal after about {self.patience} messages.",
                self.instructions,
            )
            if line
        )


_EXPERTISE = {"novice": "a beginner", "intermediate": "reasonably informed", "expert": "an expert"}
_VERBOSITY = {"terse": "a few words at a time", "normal": "a sentence or two", "chatty": "at length"}
_DISCLOSURE = {
    "guarded": "You say as little as you can: you answer one question at a time and volunteer nothing.",
    "normal": "You start vague and tell the details when you are asked for them.",
    "open": "You readily tell what you have in mind, also unasked.",
}

PERSONAS: dict[str, Persona] = {
    persona.name: persona
    for persona in (
        Persona(name="busy-manager", background="You run a team and do this between two meetings.",
                verbosity="terse", tone="brusque", patience=4, disclosure="guarded"),
        Persona(name="patient-teacher", background="You teach at a school and like to think aloud.",
                verbosity="chatty", tone="friendly", patience=10, disclosure="open"),
        Persona(name="first-timer", background="You have never done this before and do not know what matters.",
                expertise="novice", tone="friendly", patience=8),
        Persona(name="domain-expert", background="You know the subject well and check what you are given.",
                expertise="expert", tone="formal", patience=6, disclosure="normal"),
        Persona(name="shy-student", background="You are a student who is unsure what you may ask for.",
                expertise="novice", verbosity="terse", patience=7, disclosure="guarded"),
        Persona(name="chatty-neighbour", background="You are retired and have all afternoon.",
                verbosity="chatty", tone="friendly", patience=12, disclosure="open"),
    )
}  # fmt: skip
"""The personas that ship with the library, by name."""


def get_personas(names: Sequence[str]) -> list[Persona]:
    """Shipped personas by name. Raises ConfigError for a name there is none of."""
    unknown = [name for name in names if name not in PERSONAS]
    if unknown:
        raise ConfigError(f"there is no persona {unknown[0]!r}: choose from {', '.join(PERSONAS)}")
    return [PERSONAS[name] for name in names]


def pick_persona(personas: Sequence[Persona], *, seed: int, task_id: str) -> Persona | None:
    """The persona that plays a task: any of them with equal chance, the same for the same seed and task."""
    return random.Random(derive_seed(seed, task_id, "persona")).choice(personas) if personas else None
