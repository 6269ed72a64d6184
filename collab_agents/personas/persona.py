from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

HowOften = Literal["never", "sometimes", "often"]


class Persona(BaseModel):
    """Who plays the user.

    An LLM user is told each field in its prompt (`describe`). An agenda user keeps to each exactly as described here.

    name: how tables and `run.yaml` call the persona. It is in no prompt.
    background: a sentence or two of who this is, for LLM users.
    expertise: how well they know the subject. To an open question ("any other details?") a novice agenda user has no
        answer, an intermediate one tells one fact that is still untold, an expert as many as its disclosure lets it.
    patience: the user's replies before giving up (exchanges).
    verbosity: how much they write. A terse agenda user complains of one missing fact at a time, a normal one of two, a
        chatty one of all.
    tone: how they write. An agenda user words its complaints, thanks and fillers in it; a friendly or formal one adds
        a greeting and courtesies.
    language: what an LLM user writes in; the text it wants stays in its goal's language. An agenda user's sentences are
        its agenda's: it only greets and thanks in its language, where `users.wording.LANGUAGES` has that.
    disclosure: what they say unasked. A guarded agenda user answers one question at a time, a normal one up to three,
        an open one all, and an open one starts with a fact.
    typos: how often they misspell. An agenda user misspells 5% (sometimes) or 20% (often) of its words of four letters
        or more, and never a fact's name or value.
    wrong_facts: how often they are mistaken. An agenda user first tells a fact with a wrong value with a chance of 15%
        (sometimes) or 40% (often). It sticks to that until a draft has the wrong value; it then says that it gave the
        wrong one, and tells the right one.
    changes_of_mind: how often they want something else first. An agenda user first tells a fact with another value with
        a chance of 15% (sometimes) or 40% (often), and its next message says that it changed its mind and tells the
        final one, unless that message ends the conversation. In the end all want what the task says.
    instructions: anything else, in words, for LLM users.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    background: str = ""
    expertise: Literal["novice", "intermediate", "expert"] = "intermediate"
    patience: PositiveInt = 6
    verbosity: Literal["terse", "normal", "chatty"] = "normal"
    tone: Literal["neutral", "friendly", "formal", "brusque"] = "neutral"
    language: str = Field(default="English", min_length=1)
    disclosure: Literal["guarded", "normal", "open"] = "normal"
    typos: HowOften = "never"
    wrong_facts: HowOften = "never"
    changes_of_mind: HowOften = "never"
    instructions: str = ""

    def describe(self) -> str:
        """The persona in words, as the LLM user's prompt gives it. Habits that it does not have are not spoken of."""
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
