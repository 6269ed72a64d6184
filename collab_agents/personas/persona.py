from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

HowOften = Literal["never", "sometimes", "often"]


class Persona(BaseModel):
    """Who plays the user.

    An LLM user is told every field in its prompt (`describe`). An agenda user keeps to each field exactly as described
    here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    """The persona's name in tables and in `run.yaml`. No prompt contains it."""
    background: str = ""
    """A sentence or two about who this is, for LLM users."""
    expertise: Literal["novice", "intermediate", "expert"] = "intermediate"
    """How well they know the subject. Asked an open question ("any other details?"), a novice agenda user has no
    answer, an intermediate one tells one fact that is still untold, and an expert as many as its disclosure allows."""
    patience: PositiveInt = 6
    """How many replies the user makes before giving up (exchanges)."""
    verbosity: Literal["terse", "normal", "chatty"] = "normal"
    """How much they write. A terse agenda user complains about one missing fact at a time, a normal one about two, and
    a chatty one about all."""
    tone: Literal["neutral", "friendly", "formal", "brusque"] = "neutral"
    """How they write. It words an agenda user's complaints, thanks and fillers; a friendly or formal one adds a
    greeting and courtesies."""
    language: str = Field(default="English", min_length=1)
    """The language that an LLM user writes in; the text it wants stays in its goal's language. An agenda user only
    greets and thanks in it, where `users.wording.LANGUAGES` has it; its other sentences are its agenda's."""
    disclosure: Literal["guarded", "normal", "open"] = "normal"
    """What they say unasked. A guarded agenda user answers one question at a time, a normal one up to three, and an
    open one all; an open one also starts with a fact."""
    typos: HowOften = "never"
    """How often they misspell. An agenda user misspells 5% (sometimes) or 20% (often) of its words of four letters or
    more, but never a fact's name or value."""
    wrong_facts: HowOften = "never"
    """How often they are mistaken. With a chance of 15% (sometimes) or 40% (often), an agenda user first tells a fact
    with a wrong value. When a draft has that value, it says that it was wrong and tells the right one."""
    changes_of_mind: HowOften = "never"
    """How often they want something else first. With a chance of 15% (sometimes) or 40% (often), an agenda user first
    tells a fact with another value; its next message, unless it ends the conversation, says that it changed its mind
    and tells the final value. In the end every user wants what the task says."""
    instructions: str = ""
    """Anything else, in words, for LLM users."""

    def describe(self) -> str:
        """Return the persona in words, as in an LLM user's prompt. Habits that it does not have are not mentioned."""
        return "\n".join(
            line
            for line in (
                self.background,
                f"You are {_EXPERTISE[self.expertise]} on this subject.",
                f"You write {_VERBOSITY[self.verbosity]}, and your tone is {self.tone}.",
                f"You write in {self.language}{'' if self.language == 'English' else _FOREIGN}.",
                _DISCLOSURE[self.disclosure],
                _TYPOS[self.typos],
                _WRONG_FACTS[self.wrong_facts],
                _CHANGES_OF_MIND[self.changes_of_mind],
                f"You give up if you are not close to your goal after about {self.patience} messages.",
                self.instructions,
            )
            if line
        )


_EXPERTISE = {"novice": "a beginner", "intermediate": "reasonably informed", "expert": "an expert"}
_VERBOSITY = {"terse": "a few words at a time", "normal": "a sentence or two", "chatty": "at length"}
_FOREIGN = ", but want the result in the language of your goal"
_DISCLOSURE = {
    "guarded": "You say as little as you can: you answer one question at a time and volunteer nothing.",
    "normal": "You start vague and tell the details when you are asked for them.",
    "open": "You readily tell what you have in mind, also unasked.",
}
_TYPOS: dict[HowOften, str] = {
    "never": "",
    "sometimes": "Now and then you misspell a word.",
    "often": "You type carelessly: there are misspelt words in most of your messages.",
}
_SET_RIGHT = "when you see it in what the assistant made, you say that you were wrong and tell the right one"
_WRONG_FACTS: dict[HowOften, str] = {
    "never": "",
    "sometimes": f"Once in a while you give a wrong detail by mistake; {_SET_RIGHT}.",
    "often": f"You are forgetful, and many of the details that you first give are wrong; {_SET_RIGHT}.",
}
_IN_THE_END = "in the end you want what your goal says"
_CHANGES_OF_MIND: dict[HowOften, str] = {
    "never": "",
    "sometimes": f"Once in a while you ask for something else first and change your mind; {_IN_THE_END}.",
    "often": f"You are undecided: you often ask for something else first and then change your mind; {_IN_THE_END}.",
}
