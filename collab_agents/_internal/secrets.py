"""Keep keys out of everything that is written.

A server may echo a key in an error, or a model in a reply. Keys that this process knows are masked in run folders and
errors: those given to a model, and those in environment variables with names like API_KEY.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from threading import Lock
from urllib.parse import parse_qsl, urlsplit

_SHORTEST = 8
"""Characters. A shorter text is not taken for a key, since it would be masked in ordinary words."""
_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")
_SECRET = re.compile(
    r"api[-_]?key|(access|private|secret)[-_]?key|^key$|secret|passw|credential|authori[sz]ation|bearer|(^|[-_])token$",
    re.IGNORECASE,
)

_known: tuple[str, ...] = ()
"""Longest first, since one key may begin with another."""
_adding = Lock()


def remember_secret(value: str | None) -> None:
    """Mask this text from now on, as it is and as JSON escapes it."""
    global _known
    if value and len(value) >= _SHORTEST and value.isascii():
        with _adding:
            _known = tuple(sorted({*_known, value, json.dumps(value)[1:-1]}, key=len, reverse=True))


def remember_environment() -> None:
    """Remember variables whose names end like a key's. A value of letters only, such as a test password, is ignored."""
    for name, value in os.environ.items():
        if _VARIABLE.search(name.upper()) and not value.isalpha():
            remember_secret(value)


def mask(text: str) -> str:
    """Replace every known key in the text with as many stars as it has characters."""
    for secret in _known:
        if secret in text:
            text = text.replace(secret, "*" * len(secret))
    return text


def mask_bytes(data: bytes) -> bytes:
    for secret in _known:
        if secret.encode() in data:
            data = data.replace(secret.encode(), b"*" * len(secret))
    return data


def secrets_in_url(url: str) -> dict[str, str]:
    """Return the parts of an address's query that seem to be secrets, by name."""
    query = dict(parse_qsl(urlsplit(url).query))
    return {name: query[name] for name in names_of_secrets(query)}


def names_of_secrets(value: object, path: str = "") -> Iterator[str]:
    """Yield the dotted paths of a configuration at which there seems to be a secret, judging by key names."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            here = f"{path}.{key}" if path else str(key)
            texts = inner if isinstance(inner, list | tuple) else [inner]
            named = _SECRET.search(str(key)) and not str(key).lower().endswith("_env")
            if named and any(isinstance(one, str | bytes) for one in texts):
                yield here
            else:
                yield from names_of_secrets(inner, here)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from names_of_secrets(inner, f"{path}.{index}")
