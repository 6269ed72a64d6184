"""Notes taken deep inside a call for code further out."""

from collections.abc import Iterator
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
