"""Models whose weights are loaded by other processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_elsewhere: ContextVar[bool] = ContextVar("collab_agents_elsewhere", default=False)


@contextmanager
def loaded_elsewhere(wanted: bool = True) -> Iterator[None]:
    """Make local models inside without their weights. They can be sent to workers, which load them, but not called."""
    token = _elsewhere.set(wanted)
    try:
        yield
    finally:
        _elsewhere.reset(token)


def is_elsewhere() -> bool:
    return _elsewhere.get()
