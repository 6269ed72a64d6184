"""Turn exceptions and pydantic's errors into readable sentences."""

import difflib
import logging
from collections.abc import Iterable

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from collab_agents._internal.secrets import mask
from collab_agents._internal.text import valid
from collab_agents._internal.tracebacks import own_line, printed
from collab_agents.errors import CollabError, Exited

logger = logging.getLogger(__name__)


def reason_of(error: BaseException) -> str:
    """Return an exception's text, with the line of the user's code that raised it, if one did.

    The traceback is logged at level DEBUG.
    """
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%s", printed(error))
    place = "" if isinstance(error, CollabError | Exited) else own_line(error)
    return f"{words_of(error)} ({place})" if place else words_of(error)


def words_of(error: BaseException) -> str:
    """Return the text of this library's exceptions, or the type and text of others, in one line and without keys."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({'' if error.code is None else repr(error.code)})"
    if isinstance(error, CollabError | Exited):
        return valid(mask(str(error)))
    name = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except Exception:  # The exception's own __str__ failed.
        text = ""
    return valid(mask(f"{name}: {text}" if text else name))


def first_problem(error: ValidationError) -> str:
    """Return pydantic's first error as one clause: the field, what is wrong, and the value."""
    return clause_of(error.errors(include_url=False)[0])


def clause_of(problem: ErrorDetails) -> str:
    """Return one of the errors in `ValidationError.errors` as a clause."""
    where = ".".join(map(str, place_of(problem))) or "the value"
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown field"
    if not problem["loc"] and problem["type"] == "value_error":  # About the whole value: the message is complete.
        return problem["msg"].removeprefix("Value error, ")
    # A section's message says what is wrong, so its value is not shown.
    whole = problem["type"] == "value_error" and isinstance(problem["input"], dict | list)
    value = "" if whole or problem["type"] == "missing" else f", got {mask(str(problem['input']))[:80]!r}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message[:1].lower()}{message[1:]}{value}"


def place_of(problem: ErrorDetails) -> tuple[int | str, ...]:
    """Return the path to the field of one of pydantic's errors, without the tags of unions."""
    return tuple(part for part in problem["loc"] if not str(part).startswith("<"))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" to append to an error if a known word is similar, else ""."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
