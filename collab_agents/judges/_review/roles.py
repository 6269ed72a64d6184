"""Whether a user's message is one that the assistant would give."""

import re
from difflib import SequenceMatcher

from collab_agents.tasks.agenda import Agenda, times
from collab_agents.tasks.questions import is_draft, questions

_OFFERS = re.compile(
    r"^(assistant|ai|bot)\s*:"
    r"|\bas an ai\b|\bi am an ai\b|\bi'm an ai\b|\blanguage model\b|\bmy training data\b"
    r"|\b(how|what) (can|may|could) i (help|assist|do for) you\b|\bhow (can|may) i be of (help|assistance)\b"
    r"|\b(can|may|could) i (help|assist) you\b"
    r"|\b(happy|glad|pleased|delighted) to (help|assist)\b|\byou're welcome\b|\byou are welcome\b"
    r"|\bhere('s| is| are) (your|the (draft|text|updated|revised|final|new version|complete))\b"
    r"|\b(would you like|do you want) me to\b|\bshall i (write|draft|add|change|revise|include|make|proceed|go on)\b"
    r"|\bi('ve| have) (drafted|revised|updated|rewritten|prepared|created|written (your|the))\b"
    r"|\banything else (i can|i could|you would like|you'd like|you need)\b"
    r"|\blet me know if you('d| would)? (need|like|want|have)\b"
)
_ASKS = re.compile(
    r"^(and |so |okay, |ok, |sure[,!.] |great[,!.] )?"
    r"(when|where|who|which|what|how|(could|can|would) you (please |also )*(tell|give|provide|share)"
    r"|please (tell|give|provide|share|specify))\b"
)
_ABOUT_THE_TEXT = re.compile(r"\b(what|how) about\b|\bdid you\b|\bhave you\b|\bwhy\b")
_ECHO = 0.9
_LONG = 8


def spoken_as_assistant(agenda: Agenda, reference: str | None, text: str, told: set[str], heard: list[str]) -> str:
    """Return why the text is one that the assistant would give, as a clause, or "" if it is not.

    Args:
        agenda: The user's agenda.
        reference: The text that the user wants, if there is one.
        text: The user's message.
        told: The names of the facts that it tells.
        heard: What the assistant said before.
    """
    words = text.casefold().replace("’", "'").strip()
    if found := _OFFERS.search(words):
        return f"it says {found[0]!r}"
    asked = [question for question in questions(text) if _asks_for_own_facts(agenda, question, told)]
    if len(asked) > 1:
        return f"it asks for its own facts: {asked[0]!r}"
    if reference and is_draft(text) and len(written := _lines_of(reference, text, agenda)) > 1:
        return f"it writes the text itself: {written[0]!r}"
    if any(_is_echo(text, reply) for reply in heard):
        return "it says what the assistant said"
    return ""


def _asks_for_own_facts(agenda: Agenda, question: str, told: set[str]) -> bool:
    words = question.casefold()
    if not _ASKS.search(words) or _ABOUT_THE_TEXT.search(words):
        return False
    asked = {fact.name for fact in agenda.facts if fact.is_asked_in(question)}
    return bool(asked) and not asked & told


def _lines_of(reference: str, text: str, agenda: Agenda) -> list[str]:
    """Return the lines of the wanted text that stand in this one, but for those with which a user tells a fact."""
    lines = [line.strip() for line in reference.splitlines() if len(line.split()) > 2]
    own = [fact.tell for fact in agenda.facts]
    return [line for line in lines if times(text, line) and not any(times(tell, line) for tell in own)]


def _is_echo(text: str, reply: str) -> bool:
    mine, theirs = text.casefold().split(), reply.casefold().split()
    if len(mine) < _LONG or not 0.5 < len(mine) / max(len(theirs), 1) < 2:
        return False
    return SequenceMatcher(None, mine, theirs, autojunk=False).ratio() >= _ECHO
