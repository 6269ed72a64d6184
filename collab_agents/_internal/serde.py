"""Read LangGraph's serialized data without running the code that it names.

LangGraph's msgpack names functions and classes, which it imports and calls when it reads; by default, it allows all.
"""

from collections.abc import Iterable

from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from collab_agents._internal.notes import Notes

Types = frozenset[tuple[str, ...]]
"""The modules and names of types that may be read besides LangGraph's own and LangChain's messages."""

refused_types = Notes("refused_types")
"""The names of types that a strict serializer refused to read."""


def strict(types: Iterable[tuple[str, ...]]) -> JsonPlusSerializer:
    """Return a serializer that reads these types, messages and plain values, and leaves all else as data."""
    return JsonPlusSerializer(allowed_msgpack_modules=tuple(types) or None)


def _note(event: SerdeEvent) -> None:
    if event["kind"] in ("msgpack_blocked", "msgpack_method_blocked"):
        refused_types.add(f"{event['module']}.{event['name']}")


register_serde_event_listener(_note)
