"""Exceptions and pydantic's complaints as sentences for people."""

import difflib
import logging
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from collab_agents._internal.secrets import mask
from collab_agents._internal.text import valid
from collab_agents._internal.tracebacks import own_line, printed
from collab_agents.errors import CollabError, Exited

logger = logging.getLogger(__name__)


def reason_of(error: BaseException) -> str:
    """An exception as a reason to record: its words, and the line of the user's own code that raised it, if one did.

    The traceback goes to the log, at level DEBUG.
    """
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%s", printed(error))
    place = "" if isinstance(error, CollabError | Exited) else own_line(error)
    return f"{words_of(error)} ({place})" if place else words_of(error)


def words_of(error: BaseException) -> str:
    """The sentence of an exception of ours, the type and text of any other, in one line and without keys."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({'' if error.code is None else repr(error.code)})"
    if isinstance(error, CollabError | Exited):
        return valid(mask(str(error)))
    name = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except Exception:  # Of somebody's exception that cannot say what it is.
        text = ""
    return valid(mask(f"{name}: {text}" if text else name))


def first_problem(error: ValidationError) -> str:
    """pydantic's first complaint as one clause: the field, what is wrong, and the value."""
    return clause_of(error.errors(include_url=False)[0])


def clause_of(problem: Any) -> str:
    """One of pydantic's complaints, as `ValidationError.errors` gives them."""
    where = ".".join(map(str, place_of(problem))) or "the value"
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown field"
    if not problem["loc"] and problem["type"] == "value_error":  # Of the whole: it says itself what it is about.
        return problem["msg"].removeprefix("Value error, ")
    # A section says what of it is wrong.
    whole = problem["type"] == "value_error" and isinstance(problem["input"], dict | list)
    value = "" if whole or problem["type"] == "missing" else f", got {mask(str(problem['input']))[:80]!r}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message[:1].lower()}{message[1:]}{value}"


def place_of(problem: Any) -> tuple[int | str, ...]:
    """The path to the field that one of pydantic's complaints is about, without the tags of unions."""
    return tuple(part for part in problem["loc"] if not str(part).startswith("<"))


def nearest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?", where something known is close to the word, for the end of an error's sentence."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
