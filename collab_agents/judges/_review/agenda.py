"""What the user's messages say of its agenda: the facts that they tell, rightly or wrongly."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from collab_agents.tasks.agenda import Agenda, Fact, times

_WEEKDAYS = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_SLOT = re.compile(rf"\d+|\b(?:{_WEEKDAYS}|{_MONTHS})\b")
_SENTENCES = re.compile(r"(?<![A-Z][a-z]\.)(?<=[.!?])\s")  # Not after "Mr." or "Dr."
_DENIED = re.compile(
    r"\b(not|no longer|never|instead of|rather than|wrong|mistake|mistaken|you (wrote|said|put|have)|\w+n['’]t)\b", re.I
)


@lru_cache(maxsize=4096)  # All futures of a turn share what came before.
def told_in(agenda: Agenda, text: str) -> Mapping[str, str]:
    """Return the facts that the text tells, by name, each with the value that it gives."""
    told = {}
    for fact in agenda.facts:
        if fact.is_in(text):
            told[fact.name] = fact.value
        elif (value := misstated(agenda, fact, text)) is not None:
            told[fact.name] = value
    return told


def misstated(agenda: Agenda, fact: Fact, text: str) -> str | None:
    """Return the wrong value that the text gives for a fact whose right value is not in it, or None.

    It is one of the fact's `mistakes`, or the value with another number, weekday or month. A value that the text denies
    ("not on Friday") is not given by it, and neither is a value of another fact.
    """
    for value in fact.mistakes:
        if not times(text, value) or times(fact.value, value) or times(value, fact.value):
            continue
        if times(text, _telling(fact, value)) or _states(agenda, text, value):
            return value
    for value in _variants(fact.value, text):
        if _states(agenda, text, value):
            return value
    return None


def holds(fact: Fact, text: str) -> bool:
    """Return whether the text has the fact, be it in other words: all words of a value stand in one line."""
    if fact.is_in(text):
        return True
    lines = [set(re.findall(r"[^\W_]+", line.casefold())) for line in re.split(r"[.!?]\s|\n", text)]
    return any(_content(value) <= line for value in (fact.value, *fact.aliases) for line in lines)


def _content(value: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", value.casefold())) - {"a", "an", "the", "my", "our", "your"}


def _states(agenda: Agenda, text: str, value: str) -> bool:
    """Return whether a sentence of the text has the value, which no fact has, and does not deny it."""
    known = [agenda.opening, *(words for fact in agenda.facts for words in (fact.value, *fact.aliases))]
    if any(times(words, value) for words in known):
        return False
    return any(times(sentence, value) and not _denies(sentence, value) for sentence in _SENTENCES.split(text))


def _denies(sentence: str, value: str) -> bool:
    return bool(_DENIED.search(sentence.replace(value, "")))


def _telling(fact: Fact, value: str) -> str:
    return re.sub(rf"(?<!\w){re.escape(fact.value)}(?!\w)", lambda _: value, fact.tell, flags=re.IGNORECASE)


def _variants(value: str, text: str) -> Iterator[str]:
    """Yield the parts of the text that are like the value, with other numbers, weekdays or months."""
    shape = _shape(value)
    if shape is not None:
        yield from (found[0] for found in shape.finditer(text) if not times(value, found[0]))


@lru_cache(maxsize=4096)
def _shape(value: str) -> re.Pattern[str] | None:
    """Return a pattern for values like this one, or None if it would match nearly anything."""
    slots = _SLOT.findall(value)
    words = re.findall(r"[^\W\d_]{2,}", _SLOT.sub(" ", value))
    if not slots or (len(slots) == 1 and not words):
        return None
    parts, end = [], 0
    for slot in _SLOT.finditer(value):
        kind = r"\d+" if slot[0].isdigit() else f"(?:{_WEEKDAYS if slot[0] in _WEEKDAYS.split('|') else _MONTHS})"
        parts += [re.escape(value[end : slot.start()]), kind]
        end = slot.end()
    return re.compile(rf"(?<!\w){''.join(parts)}{re.escape(value[end:])}(?!\w)", re.IGNORECASE)
