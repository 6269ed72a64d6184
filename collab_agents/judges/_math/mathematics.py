"""Compare an answer with a reference as mathematics, with math-verify. Needs no model.

This module is also a script: a worker process that reads requests and writes verdicts, one JSON object per line.
Computer algebra may never finish, and only a process can be stopped.
"""

import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

_WORD_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "twelve": 12}
_SYMBOLS = (
    (r"[−–](?=\s?[\d√π(.])", "-"),
    (r"\bnegative (?=\d)", "-"),
    (r"½", r"\\frac{1}{2}"),
    (r"²", "^2"),
    (r"³", "^3"),
    (r"√\(([^()]*)\)|\bsqrt\(([^()]*)\)", r"\\sqrt{\1\2}"),
    (r"√\s*(\w+)", r"\\sqrt{\1}"),
    (r"π", r"\\pi "),
    (r"≤", r"\\le "),
    (r"≥", r"\\ge "),
    (r"∞", r"\\infty "),
    (r"°", r"^\\circ "),
    (r"\\varnothing\b|∅", r"\\emptyset "),
    # Thousands separators: 1\,234\,567 and 1{,}234.
    (r"(?<=\d)(?:\\[,!;:]|\{,\})(?:\\!)?(?=\d{3}(?!\d))", ""),
)
_BOX = re.compile(r"\\boxed\b|\\fbox\b")
_ANNOUNCED = re.compile(r"\banswer\b[^.\n]{0,60}?(?:\bis\b|\bare\b|:|=|$)[\s*:]*", re.IGNORECASE | re.MULTILINE)
_CORRECTED = re.compile(
    r"\b(should be|actually|instead|correction|corrected|correcting|mistake|apolog\w*|sorry|let me re)", re.IGNORECASE
)
_TAG = re.compile(r",\s*(?:right|correct|yes|no|ok(?:ay)?|isn't it|don't you think)\s*\?$", re.IGNORECASE)
_REASONS = re.compile(r"\b(?:because|since|as|for|which|so|or|but|and not|not)\b|≈|\\approx", re.IGNORECASE)
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_CLOCK_OR_DATE = re.compile(r"\d{1,2}:\d{2} ?[AaPp] ?[Mm]|\d{4}-\d{2}-\d{2}")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,} [A-Za-z]{2,} [A-Za-z]{2,}")
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_FILLERS = {"a", "an", "the", "that", "it", "is", "it's", "would", "be", "option", "choice", "letter", "on", "in"}
_WORDS_AT_MOST = 3
_CHARACTERS = 20_000


class Comparison(NamedTuple):
    """The result of a comparison; `correct` is None if the reference cannot be parsed."""

    correct: bool | None
    reason: str


def compare(reference: str, messages: Sequence[str]) -> Comparison:
    """Compare the final answer in an assistant's messages with the reference.

    The answer is in the newest message that marks one (a box, or "the answer is"), else in the newest that has any.
    Within a message the last box counts. Questions to the user are not answers.

    Args:
        reference: An answer in LaTeX or plain text, or a solution with a boxed answer.
        messages: The assistant's messages, oldest first.
    """
    if "\\boxed" in reference or "\\fbox" in reference:
        reference = _last_box(reference) or reference
    wanted_text = _as_text(reference)
    is_prose = _PROSE.search(_WRAPPED.sub("", reference))
    wanted = [] if wanted_text or is_prose else _parsed(f"\\boxed{{{_normal(reference)}}}")
    if not wanted_text and not wanted:
        return Comparison(None, f"the reference {reference[:80]!r} is not a mathematical answer that can be parsed")
    found = _with_answer(messages)
    if wanted_text:
        given = next(filter(None, (_given_text(message, len(wanted_text.split())) for message in found)), "")
        reason = f"{given!r} against {wanted_text!r}" if given else "no answer was found"
        return Comparison(given == wanted_text, reason)
    for message in found:
        normal = _normal(message)
        for text in dict.fromkeys((_announced(normal), normal)):
            if answer := _parsed(_in_dollars(text)):
                return Comparison(_equal(wanted, answer), f"{_shown(answer)} against {_shown(wanted)}")
    return Comparison(False, "no answer was found")


def _with_answer(messages: Sequence[str]) -> list[str]:
    """Return the messages that may contain the answer, without their questions, the likeliest first.

    The likeliest is the newest one that marks the answer or corrects an earlier one.
    """
    newest = [text for text in map(_without_questions, reversed(messages)) if text.strip()]
    return sorted((text.rstrip()[-_CHARACTERS:] for text in newest), key=lambda text: not _stands(text))


def _stands(text: str) -> bool:
    return _marks(text) or bool(_CORRECTED.search(text) and re.search(r"\d|\$", text))


def _marks(text: str) -> bool:
    return bool(_BOX.search(text) or _ANNOUNCED.search(text))


def _without_questions(text: str) -> str:
    for part in _SENTENCES.split(text):
        if part.rstrip("*_ ").endswith("?") and not _marks(part):
            # "That gives x = 42, right?" is an answer; only its tag question is dropped.
            text = text.replace(part, _TAG.sub(".", part) if _TAG.search(part) else "")
    return text


def _announced(text: str) -> str:
    """Return what follows "the answer is" in its sentence, up to a reason, or the whole text without the phrase."""
    found = list(_ANNOUNCED.finditer(text))
    if not found or _BOX.search(text):
        return text
    rest = _SENTENCES.split(text[found[-1].end() :].lstrip(), maxsplit=1)[0]
    return _REASONS.split(rest, maxsplit=1)[0].strip() or rest


def _last_box(text: str) -> str | None:
    """Return the content of the last box, with balanced braces."""
    starts = [match.end() for match in re.finditer(r"\\(?:boxed|fbox)\b\s*", text)]
    if not starts:
        return None
    rest = text[starts[-1] :]
    if not rest.startswith("{"):
        return rest[:1] or None
    depth = 0
    for index, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if not depth:
            return rest[1:index]
    return None


def _as_text(reference: str) -> str:
    """Return a reference that consists of words (a day, a name, the letter of a choice), else ""."""
    bare = _WRAPPED.sub(r"\1", reference).strip()
    words = re.sub(r"[()\s.]+", " ", bare).strip()
    wrapped = bool(_WRAPPED.fullmatch(reference.strip()))
    # Two letters are a product unless they form a word.
    is_word = wrapped or re.fullmatch(r"(?i:no|[a-z]{3,}(?: [a-z]+)*)|[A-H]", words) or _CLOCK_OR_DATE.fullmatch(words)
    few = 0 < len(words.split()) <= _WORDS_AT_MOST
    return words.casefold() if is_word and few and re.search(r"[A-Za-z]|-\d\d-", words) else ""


def _given_text(message: str, count: int) -> str:
    """Return the words in the last box, or `count` words after "the answer is", or the message's last words."""
    box = _last_box(message)
    if box is not None:
        return re.sub(r"[()\s.]+", " ", re.sub(r"\\[a-z]+|[{}$]", "", _WRAPPED.sub(r"\1", box))).strip().casefold()
    said = re.findall(r"[\w:'’-]+", _announced(message).casefold())
    if _ANNOUNCED.search(message):
        while len(said) > count and said[0] in _FILLERS:
            del said[0]
        return " ".join(said[:count])
    return " ".join(said[-count:])


def _normal(text: str) -> str:
    """Rewrite notation that math-verify cannot parse."""
    for pattern, replacement in _SYMBOLS:
        text = re.sub(pattern, replacement, text)
    text = re.sub(r"(?<!\d)(\d+)\.(\d*)\\overline\s*(?:\{(\d+)\}|(\d))", _repeating, text)
    return re.sub(r"\b([0-9A-F]+)_(?:\{\\text\s*\{(\w+)\}\}|\{(\w+)\}|(\d))", _in_base, text)


def _repeating(match: re.Match[str]) -> str:
    whole, start, braced, single = match.groups()
    cycle = braced or single
    top = int(whole + start + cycle) - int(whole + start)
    return rf"\frac{{{top}}}{{{10 ** len(start) * (10 ** len(cycle) - 1)}}}"


def _in_base(match: re.Match[str]) -> str:
    digits, *written = match.groups()
    name = next(filter(None, written))
    base = _WORD_BASES.get(name, int(name) if name.isdigit() else 0)
    try:
        return str(int(digits, base)) if base > 1 else match[0]
    except ValueError:
        return match[0]


def _in_dollars(text: str) -> str:
    """Put LaTeX delimiters around the formula at the end of a text that has none.

    Without them math-verify reads numbers only.
    """
    if re.search(r"\$[^$]*[^\d$., ][^$]*\$|\\\(|\\\[|\\boxed|\\fbox", text):
        return text
    sentence = [part for part in _SENTENCES.split(text.strip()) if part.strip()][-1].rstrip(".!* ")
    tail: list[str] = []
    for word in reversed(sentence.split()):
        if not re.fullmatch(r"[^A-Za-z]*|and|or|,|(?:[^A-Za-z\\]|(?<![A-Za-z])[a-zA-Z](?![A-Za-z])|\\[a-z]+)+", word):
            break
        tail.insert(0, word)
    while tail and re.fullmatch(r"[aAI]|and|or|:|-", tail[0]):
        del tail[0]
    formula = re.sub(r",?\s*\b(?:and|or)\b\s*", ", ", " ".join(tail))
    if not re.search(r"\\|[()<>=^,]", formula) or re.fullmatch(r"[\d,.]*\d", formula):
        return text
    return f"{sentence[: sentence.rfind(tail[0])]}${formula}$"


def _parsed(text: str) -> list[object]:
    """Return what math-verify parses in the text, without the strings that it adds as a fallback."""
    from math_verify import parse

    try:
        found = parse(text, parsing_timeout=None)
    except Exception:  # math-verify's grammar raises errors on odd input.
        return []
    return [_canonical(one) for one in found if not isinstance(one, str)]


def _canonical(value: object) -> object:
    import sympy

    if isinstance(value, sympy.And):
        return sympy.And(*(part.canonical for part in value.args))
    if isinstance(value, sympy.Expr):
        imaginary = {symbol: sympy.I for symbol in value.free_symbols if symbol.name == "i"}
        return sympy.expand(value.subs(imaginary)) if imaginary else value
    return value


def _equal(wanted: list[object], answer: list[object]) -> bool:
    from math_verify import verify

    # Ten digits, because a rounded value is not the exact one.
    return bool(verify(wanted, answer, float_rounding=10, timeout_seconds=None))


def _shown(values: list[object]) -> str:
    return str(values[0])[:80]


def _serve(requests: Iterable[str]) -> Iterator[str]:
    yield "{}"
    for line in requests:
        request = json.loads(line)
        try:
            yield json.dumps(compare(request["reference"], request["messages"]))
        except Exception as error:  # Computer algebra fails on odd input; the worker continues.
            yield json.dumps(Comparison(None, f"they cannot be compared: {type(error).__name__}: {str(error)[:200]}"))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # math-verify warns that its own time limit is off.
    import math_verify  # noqa: F401  (so that the first request does not wait for it)

    for answer in _serve(sys.stdin):
        print(answer, flush=True)
