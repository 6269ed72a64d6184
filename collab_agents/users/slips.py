"""Mistakes that people make: misspelt words and wrong values."""

import random
import re
from collections.abc import Sequence

from collab_agents.tasks.agenda import Fact, times

# Words, but not parts of file names, addresses or numbers.
_WORD = re.compile(r"(?<![^\s(\"'])[^\W\d_]{4,}(?=[.,;:!?)\"']*(?:\s|$))")
_NUMBER = re.compile(r"\d{1,9}")
_CALENDAR = (
    ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
     "December"),
)  # fmt: skip


def misspell(text: str, share: float, chance: random.Random, needed: Sequence[str]) -> tuple[str, int]:
    """Misspell about a `share` of the words of four letters or more, and return the text and the number of typos.

    Two letters are swapped, or one is dropped or doubled, never the first. Phrases in `needed` stay intact.
    """
    kept = [words for words in needed if times(text, words)]
    slips = 0
    # From the end, so that earlier positions stay valid.
    for match in reversed(list(_WORD.finditer(text))):
        if chance.random() >= share:
            continue
        slipped = text[: match.start()] + _slip(match.group(), chance) + text[match.end() :]
        if all(times(slipped, words) == times(text, words) for words in kept):
            text, slips = slipped, slips + 1
    return text, slips


def _slip(word: str, chance: random.Random) -> str:
    at = chance.randrange(1, len(word) - 1)
    kind = chance.choice(("swap", "drop", "double"))
    if kind == "swap" and word[at] != word[at + 1]:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == "drop":
        return word[:at] + word[at + 1 :]
    return word[:at] + word[at] + word[at:]


def mistaken(fact: Fact, chance: random.Random) -> str | None:
    """Return a plausible wrong value, or None if there is none that the fact's sentence can hold.

    It is one of the fact's `mistakes`, or else the value with another weekday, month or number.
    """
    values = fact.mistakes or _near(fact.value, chance)
    wrong = [value for value in values if not fact.is_in(telling(fact, value))]
    return chance.choice(wrong) if wrong else None


def telling(fact: Fact, value: str) -> str:
    """Return the fact's sentence with another value in it."""
    return re.sub(rf"(?<!\w){re.escape(fact.value)}(?!\w)", lambda _: value, fact.tell, flags=re.IGNORECASE)


def _near(value: str, chance: random.Random) -> list[str]:
    found = [
        re.sub(rf"\b{name}\b", chance.choice([other for other in names if other != name]), value)
        for names in _CALENDAR
        for name in names
        if re.search(rf"\b{name}\b", value)
    ]
    for match in _NUMBER.finditer(value):
        number = int(match.group())
        # Smaller rather than larger, since 32 May does not exist.
        other = str(max(number - chance.choice((1, 2)), 1) if number > 1 else number + 1)
        found.append(value[: match.start()] + other.zfill(len(match.group())) + value[match.end() :])
    return found
