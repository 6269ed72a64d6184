"""Copies of values, one for each branch."""

from copy import copy, deepcopy
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel


def own_copy(value: Any) -> Any:
    """A deep copy, quick for the JSON values that nearly everything is."""
    if isinstance(value, dict):
        return {key: own_copy(one) for key, one in value.items()}
    if isinstance(value, list):
        return [own_copy(one) for one in value]
    return value if isinstance(value, str | int | float | None) else deepcopy(value)


def branch_copy(value: Any, name: str) -> tuple[Any, list[str]]:
    """A copy for one branch, as deep as it can be, and the names of the parts that could not be copied and are shared.

    name: what the value is called, before the names of its parts ("context.db").
    """
    try:
        return own_copy(value), []
    except Exception:  # Whatever an object of somebody's raises when it is copied.
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


def _parts(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, BaseModel):
        return dict(value)
    return {}
