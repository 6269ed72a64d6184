"""Values of an app as texts in an assistant's memory, and back, when it is known who wrote them.

A memory may have been where others can write: in a run's checkpoints, or in a thread on a server. Reading a value that
LangGraph serialized calls what it names, so a text is read as it is only if this user, or a process with the same
`COLLAB_AGENTS_KEY`, wrote it. Any other may hold messages, plain values and the types in the app's own state.
"""

import base64
from collections.abc import Iterable, Iterator
from typing import Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from collab_agents._internal.sealing import KEY_VARIABLE, is_sealed, seal_of
from collab_agents._internal.serde import Types, refused_types, strict
from collab_agents.errors import ConfigError

_SERDE = JsonPlusSerializer()


def pack(value: Any) -> str:
    """Any value that LangGraph can serialize as a text, which a branch copies for nothing and cannot change.

    Raises TypeError or ValueError for one that it cannot.
    """
    kind, data = _SERDE.dumps_typed(value)
    return f"{kind}:{base64.b64encode(data).decode()}:{seal_of(_sealed(kind, data))}"


def unpack(text: str) -> Any:
    """The value. The text has to have been checked."""
    kind, data, _ = _parts(text)
    return _SERDE.loads_typed((kind, data))


def check_packed(texts: Iterable[str], types: Types) -> None:
    """Raises ConfigError for a text that somebody else wrote and that holds other types than these."""
    for text in texts:
        try:
            kind, data, seal = _parts(text)
        except (AttributeError, ValueError) as error:
            raise ConfigError(f"assistant_memory holds {str(text)[:40]!r}, which no assistant wrote") from error
        if not is_sealed(_sealed(kind, data), seal):
            _check(kind, data, types)


def _parts(text: str) -> tuple[str, bytes, str]:
    kind, data, seal = [*text.split(":"), ""][:3]
    return kind, base64.b64decode(data, validate=True), seal


def _sealed(kind: str, data: bytes) -> bytes:
    return kind.encode() + b":" + data


def _check(kind: str, data: bytes, types: Types) -> None:
    if kind == "empty":  # A channel without a value.
        return
    value, refused = None, [f"{kind} data"]
    if kind in ("null", "bytes", "bytearray", "msgpack"):
        with refused_types.taken() as refused:
            value = strict(types).loads_typed((kind, data))
    if refused:
        raise ConfigError(
            f"assistant_memory was written by another user or on another machine and holds {refused[0]}, which the "
            f"app's state does not declare: set {KEY_VARIABLE} to the same secret on both, or begin anew"
        )
    for inner in _serialized_in(value):
        _check(*inner, types)


def _serialized_in(value: Any) -> Iterator[tuple[str, bytes]]:
    """What is serialized once more inside, as the values of a thread are."""
    if isinstance(value, list | tuple):
        match value:
            case [str() as kind, bytes() as data]:
                yield kind, data
            case _:
                for one in value:
                    yield from _serialized_in(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _serialized_in(one)
