"""Noting where a model refused its key, so that a run does not spend all its tasks on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_noted: ContextVar[list[str] | None] = ContextVar("collab_agents_refusals", default=None)


@contextmanager
def noting_refusals() -> Iterator[list[str]]:
    """What models answered, to calls made inside, that refused the key or its rights."""
    refusals: list[str] = []
    token = _noted.set(refusals)
    try:
        yield refusals
    finally:
        _noted.reset(token)


def note_refusal(reason: str) -> None:
    noted = _noted.get()
    if noted is not None:
        noted.append(reason)
