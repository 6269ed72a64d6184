"""Answers to mathematical questions, labelled by hand, for the tests of `accuracy`."""

import json
from typing import NamedTuple

from benchmarks.process import ROOT


class Pair(NamedTuple):
    """A reference answer, a reply to the question, and whether the reply's final answer agrees with the reference."""

    reference: str  # as a dataset has it: the content of \boxed{} in MATH, or a plain answer; LaTeX or plain text
    reply: str  # an assistant's last message
    correct: bool  # by mathematics, not by what any library says


def _read() -> tuple[Pair, ...]:
    with (ROOT / "tests" / "data" / "math_answers.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return tuple(Pair(row["reference"], row["reply"], row["correct"]) for row in rows)


PAIRS = _read()
