"""Make text from outside safe to store and show."""

import re
from typing import Any


def valid(value: Any) -> Any:
    """Return a text, or a list or dict of texts, without lone surrogates, which files cannot hold.

    A model's reply that is cut inside an emoji ends with one. A pair becomes its character, any other surrogate the
    replacement character.
    """
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {valid(key): valid(part) for key, part in value.items()}
    return [valid(part) for part in value] if isinstance(value, list) else value


def harmless(words: str) -> str:
    """Remove control characters, with which a text could move the cursor, ring the bell or change colours."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", words)
