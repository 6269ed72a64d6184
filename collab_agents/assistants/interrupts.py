"""What an app asks when it interrupts, and who answers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


def question_in(value: Any) -> str:
    """What an interrupt's value asks a person: a text, or the text under a usual key, or all of it as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        for key in ("question", "query", "message", "prompt", "description", "content", "text"):
            if isinstance(value.get(key), str):
                return value[key]
    return json.dumps(value, ensure_ascii=False, default=str)


@dataclass(frozen=True)
class AskUser:
    """How the simulated user answers an app's interrupts.

    show: the words in which the user is asked, of the interrupt's value. resume: with what the app goes on, of the
    user's words and the value; by default the words.
    """

    show: Callable[[Any], str] = question_in
    resume: Callable[[str, Any], Any] = lambda words, value: words
