"""Generate a JSON object field by field, so that it is complete and valid however much a model rambles."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import json_repair

from collab_agents._internal.seeds import derive_seed
from collab_agents.models.engines.base import Completion, Engine, Job

_CHARACTERS = r'([^"\\\x00-\x1f]|\\["\\/bfnrt])*'
_STRING = _CHARACTERS + '"[,}]?'
"""The rest of a string after its opening quote. Tokens such as `",` end it too, which models prefer to a bare quote."""
_NUMBER = r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?"
_INTEGER = r"-?(0|[1-9][0-9]{0,8})"
_SHORT = 12
"""Tokens of a value that is not a string."""
_MOST_CHOICES = 200

Schema = Mapping[str, Any]


async def complete_object(engine: Engine, job: Job, schema: Schema) -> Completion:
    """Continue a prompt with a JSON object of a schema.

    A string that is followed by others may take half of the tokens that are left. It is cut there, so that there is
    room for the other fields.

    Args:
        engine: An engine that keeps to `Job.constraint`.
        job: The prompt and its options. Every field has a seed derived from the job's.
        schema: The JSON schema of an object.
    """
    fields: dict[str, Schema] = schema["properties"]
    strings = [name for name, field in fields.items() if _is_text(field)]
    left = job.max_tokens - _SHORT * (len(fields) - len(strings))
    text, cut = "", False
    for index, (name, field) in enumerate(fields.items()):
        text += f'{", " if text else "{"}"{name}": '
        one = replace(job, seed=derive_seed(job.seed, name) if index else job.seed, stop=(), listen=None)
        if _is_text(field):
            text += '"'
            share = max(1, left if name == strings[-1] else left // 2)
            done = await engine.complete(_after(engine, one, text, share, {"regex": _STRING}))
            left -= done.tokens
            text += _closed(done.text)
            cut = cut or done.finish_reason == "length"
        else:
            regex = _choices(field)
            constraint = {"regex": regex} if regex else {"json_schema": json.dumps({**schema, **field})}
            done = await engine.complete(_after(engine, one, text, _SHORT if regex else max(1, left), constraint))
            text += _valid(done.text)
    return Completion(text + "}", len(engine.tokens(text)), "length" if cut else "stop")


def _after(engine: Engine, job: Job, text: str, max_tokens: int, constraint: Mapping[str, str]) -> Job:
    return replace(job, prompt=[*job.prompt, *engine.tokens(text)], max_tokens=max_tokens, constraint=constraint)


def _is_text(field: Schema) -> bool:
    return field.get("type") == "string" and "enum" not in field and "const" not in field


def _choices(field: Schema) -> str:
    """Return a regular expression of a field's values, or "" if there is none."""
    values = field.get("enum") or ([field["const"]] if "const" in field else [])
    kind = field.get("type")
    low, high = field.get("minimum"), field.get("maximum")
    if kind == "integer" and low is not None and high is not None and high - low < _MOST_CHOICES:
        values = list(range(int(low), int(high) + 1))
    if values:
        return "|".join(re.escape(json.dumps(value)) for value in values)
    if kind == "number" and (low, high) == (0, 1):
        return r"0(\.[0-9]{1,4})?|1(\.0)?"
    return {"boolean": "true|false", "number": _NUMBER, "integer": _INTEGER, "null": "null"}.get(str(kind), "")


def _valid(text: str) -> str:
    """Return a value, repaired if it was cut."""
    try:
        json.loads(text)
    except ValueError:
        return json.dumps(json_repair.loads(text))
    return text


def _closed(text: str) -> str:
    """Return the characters of a string, without half an escape sequence at a cut, and its closing quote."""
    found = re.match(_CHARACTERS, text)
    assert found  # It also matches no characters.
    return found[0] + '"'
