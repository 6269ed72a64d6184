"""Copies of values, one for each branch."""

from copy import copy, deepcopy
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel

_ATOMS = (str, int, float, type(None))
"""A tuple, since Python would make the union of types anew for each value."""


def own_copy(value: Any) -> Any:
    """Return a deep copy, made quickly for JSON values, which most values are."""
    if isinstance(value, _ATOMS):
        return value
    if isinstance(value, dict):
        return {key: own_copy(one) for key, one in value.items()}
    return [own_copy(one) for one in value] if isinstance(value, list) else deepcopy(value)


def branch_copy(value: Any, name: str) -> tuple[Any, list[str]]:
    """Copy a value for one branch as deeply as possible. Return the copy and the names of parts that are shared.

    `name` is the value's name, which precedes those of its parts ("context.db").
    """
    try:
        return own_copy(value), []
    except Exception:  # Objects of other code may raise anything when copied.
        pass
    parts = _parts(value)
    if not parts:
        return value, [name]
    copies = {key: branch_copy(part, f"{name}.{key}") for key, part in parts.items()}
    shared = [one for _, names in copies.values() for one in names]
    if isinstance(value, dict):
        return {key: part for key, (part, _) in copies.items()}, shared
    whole = copy(value)
    for key, (part, _) in copies.items():
        object.__setattr__(whole, key, part)
    return whole, shared


def _parts(value: object) -> dict[str, object]:
    if isinstance(value, dict):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, BaseModel):
        return dict(value)
    return {}
