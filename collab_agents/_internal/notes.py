"""Notes taken deep inside a call for code further out."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar


class Notes:
    """One kind of notes. They are kept only inside `taken`."""

    def __init__(self, name: str) -> None:
        self._open: ContextVar[list[str] | None] = ContextVar(f"collab_agents_{name}", default=None)

    @contextmanager
    def taken(self) -> Iterator[list[str]]:
        """Collect what is noted inside, in this task and in every task started from it."""
        notes: list[str] = []
        token = self._open.set(notes)
        try:
            yield notes
        finally:
            self._open.reset(token)

    def add(self, text: str) -> None:
        notes = self._open.get()
        if notes is not None:
            notes.append(text)


refusals = Notes("refusals")
"""Refusals of a model's key, so that a run can stop before all its tasks fail."""


_MOST_KINDS = 100
_errors: ContextVar[Counter[str] | None] = ContextVar("collab_agents_errors", default=None)


@contextmanager
def counting_errors(errors: Counter[str]) -> Iterator[None]:
    """Count the errors that `count_error` is told of inside, in this task and in every task started from it."""
    token = _errors.set(errors)
    try:
        yield
    finally:
        _errors.reset(token)


def count_error(kind: str) -> None:
    """Count an error for whoever watches the run. Without anybody, nothing happens."""
    if (errors := _errors.get()) is not None:
        add_errors(errors, {kind: 1})


def add_errors(errors: Counter[str], more: Mapping[str, int]) -> None:
    """Add counts by kind. Beyond a hundred kinds, all others are one kind."""
    for kind, count in more.items():
        errors[kind if kind in errors or len(errors) < _MOST_KINDS else "other errors"] += count
