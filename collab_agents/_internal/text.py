"""Text that others wrote, made fit to be kept and shown."""

import re
from typing import Any


def valid(value: Any) -> Any:
    """A text without halves of characters, which no file can hold; of a list or dict, one of such texts.

    A model's reply that is cut inside an emoji ends with one. Two that belong together become the character, any other
    becomes the replacement character.
    """
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {valid(key): valid(part) for key, part in value.items()}
    return [valid(part) for part in value] if isinstance(value, list) else value


def harmless(words: str) -> str:
    """Without what would move the cursor, ring or recolour, as nothing that a model says should."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", words)
