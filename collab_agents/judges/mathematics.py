"""Whether an answer agrees with a reference, mathematically, by math-verify. Needs no model.

Also a script: a worker process that reads requests and writes verdicts, one JSON object a line. Computer algebra may
take for ever, and only a process can be stopped.
"""

import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

_WORD_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "twelve": 12}
_SYMBOLS = (
    (r"√\(([^()]*)\)|\bsqrt\(([^()]*)\)", r"\\sqrt{\1\2}"),
    (r"√\s*(\w+)", r"\\sqrt{\1}"),
    (r"π", r"\\pi "),
    (r"≤", r"\\le "),
    (r"≥", r"\\ge "),
    (r"∞", r"\\infty "),
    (r"°", r"^\\circ "),
    (r"\\varnothing\b|∅", r"\\emptyset "),
    # Thousands apart: 1\,234\,567 and 1{,}234.
    (r"(?<=\d)(?:\\[,!;:]|\{,\})(?:\\!)?(?=\d{3}(?!\d))", ""),
)
_ANSWER = re.compile(r"\banswer\b[^.\n]{0,60}?(?:\bis\b|\bare\b|:|=)|\\boxed\b|\\fbox\b", re.IGNORECASE)
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,} [A-Za-z]{2,} [A-Za-z]{2,}")
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_WORDS_AT_MOST = 3
_CHARACTERS = 20_000


class Verdict(NamedTuple):
    """correct: None if the reference cannot be understood."""

    correct: bool | None
    reason: str


def compare(reference: str, messages: Sequence[str]) -> Verdict:
    """Whether the final answer in an assistant's messages is the reference.

    reference: an answer in LaTeX or plain text, or a solution that has one in a box.
    messages: oldest first. The answer is in the newest message that marks one (a box, or "the answer is"), else in
        the newest that has any; within a message the last box counts. Questions put to the user are not answers.
    """
    if "\\boxed" in reference or "\\fbox" in reference:
        reference = _last_box(reference) or reference
    wanted_text = _as_text(reference)
    is_prose = _PROSE.search(_WRAPPED.sub("", reference))
    wanted = [] if wanted_text or is_prose else _parsed(f"\\boxed{{{_normal(reference)}}}")
    if not wanted_text and not wanted:
        return Verdict(None, f"the reference {reference[:80]!r} is not a mathematical answer that can be parsed")
    found = _with_answer(messages)
    if wanted_text:
        given = next(filter(None, map(_given_text, found)), "")
        return Verdict(given == wanted_text, f"{given!r} against {wanted_text!r}" if given else "no answer was found")
    for message in found:
        if answer := _parsed(_in_dollars(_normal(message))):
            return Verdict(_equal(wanted, answer), f"{_shown(answer)} against {_shown(wanted)}")
    return Verdict(False, "no answer was found")


def _with_answer(messages: Sequence[str]) -> list[str]:
    """The messages that may hold the answer, without their questions, the likeliest first."""
    newest = [text for text in map(_without_questions, reversed(messages)) if text.strip()]
    return sorted((text[-_CHARACTERS:] for text in newest), key=lambda text: not _ANSWER.search(text))


def _without_questions(text: str) -> str:
    asked = {part for part in _SENTENCES.split(text) if part.rstrip("*_ ").endswith("?") and not _ANSWER.search(part)}
    for part in asked:
        text = text.replace(part, "")
    return text


def _last_box(text: str) -> str | None:
    """What is in the last box, its braces balanced."""
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
    """The words of a reference that is words (a day, a name, the letter of a choice), else ""."""
    bare = _WRAPPED.sub(r"\1", reference).strip()
    words = re.sub(r"[()\s.]+", " ", bare).strip()
    wrapped = bool(_WRAPPED.fullmatch(reference.strip()))
    is_word = wrapped or re.fullmatch(r"[A-H]|[A-Za-z]{3,}(?: [A-Za-z]+)*", words)
    few = 0 < len(words.split()) <= _WORDS_AT_MOST
    return words.casefold() if is_word and few and re.search(r"[A-Za-z]", words) else ""


def _given_text(message: str) -> str:
    """The words in the last box, or the last word of all."""
    box = _last_box(message)
    if box is not None:
        return re.sub(r"[()\s.]+", " ", re.sub(r"\\[a-z]+|[{}$]", "", _WRAPPED.sub(r"\1", box))).strip().casefold()
    anchored = re.findall(r"answer\b[^.\n]{0,60}?(?:\bis\b|:)\s*\W*([A-Za-z]+)", message, re.IGNORECASE)
    words: list[str] = anchored or re.findall(r"[^\W\d_]+", message)
    return words[-1].casefold() if words else ""


def _normal(text: str) -> str:
    """What math-verify does not read, in a way that it does."""
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
    """The formula at the end of a text without LaTeX delimiters, put between them: math-verify reads numbers only,

    where nothing marks a formula.
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


def _parsed(text: str) -> list[Any]:
    """What math-verify finds in it, without the strings that it adds for lack of better."""
    from math_verify import parse

    try:
        found = parse(text, parsing_timeout=None)
    except Exception:  # math-verify lets through what its grammar raises on odd input.
        return []
    return [_canonical(one) for one in found if not isinstance(one, str)]


def _canonical(value: Any) -> Any:
    import sympy

    if isinstance(value, sympy.And):
        return sympy.And(*(part.canonical for part in value.args))
    if isinstance(value, sympy.Expr):
        imaginary = {symbol: sympy.I for symbol in value.free_symbols if symbol.name == "i"}
        return sympy.expand(value.subs(imaginary)) if imaginary else value
    return value


def _equal(wanted: list[Any], answer: list[Any]) -> bool:
    from math_verify import verify

    # Ten digits: a rounded value is not the exact one.
    return bool(verify(wanted, answer, float_rounding=10, timeout_seconds=None))


def _shown(values: list[Any]) -> str:
    return str(values[0])[:80]


def _serve(requests: Iterable[str]) -> Iterator[str]:
    yield "{}"
    for line in requests:
        request = json.loads(line)
        yield json.dumps(compare(request["reference"], request["messages"]))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # math-verify warns that it has no time limit of its own here.
    import math_verify  # noqa: F401  (so that the first request does not wait for it)

    for answer in _serve(sys.stdin):
        print(answer, flush=True)
