"""Counting model calls and tokens, per trajectory and per run, whoever makes the call."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass
class Usage:
    """Model calls answered, and the tokens they read and wrote as the provider reports them."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, other: "Usage") -> None:
        self.calls += other.calls
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens


_open: ContextVar[tuple[Usage, ...]] = ContextVar("collab_agents_usage", default=())


@contextmanager
def track_usage(usage: Usage | None = None) -> Iterator[Usage]:
    """Counts the calls made inside, in this task and in every task started from it, into `usage` or a new count.

    Trackers nest.
    """
    usage = usage if usage is not None else Usage()
    token = _open.set((*_open.get(), usage))
    try:
        yield usage
    finally:
        _open.reset(token)


def record_usage(metadata: Any) -> None:
    """Count one answered call; `metadata` is a message's `usage_metadata`, or None if none was reported."""
    one = Usage(1, (metadata or {}).get("input_tokens", 0), (metadata or {}).get("output_tokens", 0))
    for usage in _open.get():
        usage.add(one)
