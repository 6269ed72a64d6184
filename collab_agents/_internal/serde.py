"""Reading what LangGraph has serialized without running what it names.

LangGraph's msgpack names functions and classes, which it imports and calls when it reads. By default it calls any.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

Types = frozenset[tuple[str, ...]]
"""Types that may be read besides LangGraph's own and LangChain's messages: their modules and names."""

_refused: ContextVar[list[str] | None] = ContextVar("collab_agents_refused_types", default=None)


def strict(types: Iterable[tuple[str, ...]] = ()) -> JsonPlusSerializer:
    """A serializer that reads these types, messages and plain values, and leaves the contents of any other as data."""
    return JsonPlusSerializer(allowed_msgpack_modules=tuple(types) or None)


@contextmanager
def refused_types() -> Iterator[list[str]]:
    """The names of what a strict serializer refuses to read inside."""
    refused: list[str] = []
    token = _refused.set(refused)
    try:
        yield refused
    finally:
        _refused.reset(token)


def _note(event: SerdeEvent) -> None:
    refused = _refused.get()
    if refused is not None and event["kind"] in ("msgpack_blocked", "msgpack_method_blocked"):
        refused.append(f"{event['module']}.{event['name']}")


register_serde_event_listener(_note)
