"""The faults of a user that has an agenda, found by rule.

The rules know what the user wants and what its persona allows, so that the slips of a forgetful or undecided persona,
an early end after its patience, and a complaint that is made again for the same omission are no faults.
"""

import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher

from collab_agents.judges._review.agenda import holds, told_in
from collab_agents.judges._review.faults import Fault
from collab_agents.judges._review.roles import spoken_as_assistant
from collab_agents.judges._review.said import Exchange, Said
from collab_agents.personas import Persona
from collab_agents.tasks.agenda import Agenda, times
from collab_agents.tasks.questions import is_draft, is_open_question, questions

_VOLUNTEERED = {"guarded": 1, "normal": 3}
"""Facts with which an open question may be answered, by disclosure. An open user may tell all at any time."""
_ALIKE = 0.8
"""The share of words, in order, from which two messages are the same (difflib)."""
_FEW = 4
"""Words from which a message that stands in a later one is repeated by it."""
_MANY = 20
"""Words from which a message that tells no fact counts as repeated; shorter ones are small talk."""


def faults_by_rule(agenda: Agenda, persona: Persona | None, reference: str | None, exchange: Exchange) -> list[Fault]:
    """Return the faults in the messages to review, in their order.

    Args:
        agenda: The user's agenda.
        persona: Who the user is; by default a persona with the defaults of all fields.
        reference: The text that the user wants, if there is one.
        exchange: The conversation.
    """
    return list(_Rules(agenda, persona or Persona(name="default"), reference, exchange).faults())


class _Rules:
    """The rules, applied to one conversation. `told` has the values that each message gives, by fact."""

    def __init__(self, agenda: Agenda, persona: Persona, reference: str | None, exchange: Exchange) -> None:
        self.agenda = agenda
        self.persona = persona
        self.reference = reference
        self.exchange = exchange
        self.told = [told_in(agenda, said.text) for said in exchange.said]
        self.right = {fact.name: fact.value for fact in agenda.facts}

    def faults(self) -> Iterator[Fault]:
        for said in self.exchange.reviewed:
            told = self.told[said.number - 1]
            if why := self._speaks_as_assistant(said, told):
                yield Fault("speaks_as_assistant", said.number, why)
                continue  # It says nothing as the user.
            if why := self._tells_at_once(said, told):
                yield Fault("tells_at_once", said.number, why)
            if why := self._contradicts(said, told):
                yield Fault("contradicts", said.number, why)
            if why := self._goes_on(said):
                yield Fault("goes_on", said.number, why)
            if why := self._repeats(said, told):
                yield Fault("repeats", said.number, why)
        if self.exchange.ended and (why := self._ends_early()):
            yield Fault("ends_early", len(self.exchange.said), why)

    def _tells_at_once(self, said: Said, told: Mapping[str, str]) -> str:
        if self.persona.disclosure == "open":
            return ""
        before = {name for earlier in self.told[: said.number - 1] for name in earlier}
        asked = {fact.name for fact in self.agenda.facts if fact.is_in(self.agenda.opening)}
        room = 1
        if said.answers is not None:
            if is_draft(said.answers) or told_in(self.agenda, said.answers):
                return ""  # It says what is missing in the draft.
            asked |= {fact.name for fact in self.agenda.asked(said.answers)}
            if any(is_open_question(question) for question in questions(said.answers)):
                room = _VOLUNTEERED[self.persona.disclosure]
        unasked = [name for name in told if name not in before | asked]
        few = self.persona.disclosure == "normal" and 2 * len(unasked) < len(self.right)
        if len(unasked) <= room or few:
            return ""
        return f"{self.persona.disclosure} in disclosure, it tells unasked: {', '.join(unasked)}"

    def _contradicts(self, said: Said, told: Mapping[str, str]) -> str:
        slips = (self.persona.wrong_facts, self.persona.changes_of_mind) != ("never", "never")
        for name, value in told.items():
            right = self.right[name]
            if value == right:
                continue
            before = [earlier[name] for earlier in self.told[: said.number - 1] if name in earlier]
            if not slips:
                return f"it says that the {name} is {value!r}, and it is {right!r}"
            if any(other != value for other in before):
                return f"it says that the {name} is {value!r}, and before it was {before[-1]!r}"
        return ""

    def _speaks_as_assistant(self, said: Said, told: Mapping[str, str]) -> str:
        heard = [one.answers for one in self.exchange.said[: said.number] if one.answers]
        return spoken_as_assistant(self.agenda, self.reference, said.text, set(told), heard)

    def _goes_on(self, said: Said) -> str:
        met = said.answers is not None and is_draft(said.answers) and not self.agenda.missing(said.answers)
        return "the draft before it has every fact" if met and not self.exchange.closes(said) else ""

    def _repeats(self, said: Said, told: Mapping[str, str]) -> str:
        if said.number == 1 or self.exchange.closes(said) or self._is_called_for(said, told):
            return ""
        for earlier in self.exchange.said[: said.number - 1]:
            if not told and earlier.number > 1 and len(said.text.split()) < _MANY:
                continue
            heard, before = said.answers, earlier.answers
            same_cause = heard is not None and before is not None and _alike(heard, before)
            if _says_again(said.text, earlier.text) and not same_cause:
                return f"it says again what it said in its message {earlier.number}"
        return ""

    def _is_called_for(self, said: Said, told: Mapping[str, str]) -> bool:
        """Whether the assistant asked for a fact that the message tells, or left one out."""
        if said.answers is None:
            return False
        wanted = {fact.name for fact in self.agenda.asked(said.answers)}
        if is_draft(said.answers):
            wanted |= {fact.name for fact in self.agenda.missing(said.answers)}
        return bool(wanted & set(told))

    def _ends_early(self) -> str:
        exchange, last = self.exchange, self.exchange.said[-1:]
        closed = exchange.unanswered is None
        before = len(exchange.said) - closed
        heard = [one.answers for one in exchange.said] + [exchange.unanswered]
        drafts = [text for text in heard if text and is_draft(text)]
        missing = [fact.name for fact in self.agenda.facts if not drafts or not holds(fact, drafts[-1])]
        if not missing or before >= self.persona.patience or (not last and not drafts):
            return ""
        patience = f"after {before} messages, with a patience of {self.persona.patience}"
        if not drafts:
            return f"it ends before the assistant has written anything, {patience}"
        return f"it ends while the draft lacks {', '.join(missing)}, {patience}"


def _says_again(text: str, earlier: str) -> bool:
    words, before = len(_words(text)), len(_words(earlier))
    return _alike(text, earlier) or (before >= _FEW and 2 * before >= words and times(text, earlier) > 0)


def _alike(one: str, other: str) -> bool:
    return SequenceMatcher(None, _words(one), _words(other), autojunk=False).ratio() >= _ALIKE


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())
