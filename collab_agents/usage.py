"""Counting model calls and tokens, per trajectory and per run, whoever makes the call."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult


@dataclass
class Usage:
    """The number of answered model calls, and of the tokens they read and wrote, as the provider reports them.

    `unreported` counts the calls for which the provider reported no tokens; these are missing in the other counts.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unreported: int = 0

    def add(self, other: "Usage") -> None:
        self.calls += other.calls
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.unreported += other.unreported


_MOST_TOKENS = 10**9

SAID_AGAIN = "said_again"
"""The tag of a run that repeats an existing reply, and so is not a model call although it looks like one."""

_open: ContextVar[tuple[Usage, ...]] = ContextVar("collab_agents_usage", default=())


@contextmanager
def track_usage(usage: Usage | None = None) -> Iterator[Usage]:
    """Count the model calls made inside, in this task and in tasks started from it. Trackers can be nested.

    Args:
        usage: The count to add to; by default a new one.

    Example:
        with track_usage() as usage:
            await model.ainvoke("Hello")
        print(usage.calls, usage.output_tokens)
    """
    usage = usage if usage is not None else Usage()
    token = _open.set((*_open.get(), usage))
    try:
        yield usage
    finally:
        _open.reset(token)


def token_count(reported: object) -> int:
    """Return the number of tokens that a server reports, limited to what is possible: 0 to a billion."""
    if not isinstance(reported, int | float) or not reported > 0:
        return 0
    return int(min(reported, _MOST_TOKENS))


def record_usage(metadata: Mapping[str, object] | None, run_id: UUID | None = None) -> None:
    """Count one answered call.

    Args:
        metadata: The message's `usage_metadata`, or None if no usage was reported.
        run_id: The call's id, so that `counting_all_models` does not count it again.
    """
    counter = _counter.get()
    if counter and run_id:
        counter.counted.add(run_id)
    read, wrote = ((metadata or {}).get(name) for name in ("input_tokens", "output_tokens"))
    one = Usage(1, token_count(read), token_count(wrote), int(metadata is None))
    for usage in _open.get():
        usage.add(one)


class _Counter(BaseCallbackHandler):
    def __init__(self) -> None:
        self.counted: set[UUID] = set()

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        if run_id in self.counted or SAID_AGAIN in (kwargs.get("tags") or ()):
            self.counted.discard(run_id)
            return
        generation = response.generations[0][0] if response.generations and response.generations[0] else None
        record_usage(getattr(getattr(generation, "message", None), "usage_metadata", None))


_counter: ContextVar[_Counter | None] = ContextVar("collab_agents_counter", default=None)


@contextmanager
def counting_all_models() -> Iterator[list[BaseCallbackHandler]]:
    """Count the calls of every model, also other libraries', with the callback handlers that this yields.

    It yields no handlers if an outer `counting_all_models` already counts.
    """
    if _counter.get():
        yield []
        return
    counter = _Counter()
    token = _counter.set(counter)
    try:
        yield [counter]
    finally:
        _counter.reset(token)


def is_counting_all() -> bool:
    return _counter.get() is not None
