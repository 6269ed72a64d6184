"""Values of an app as texts in an assistant's memory, and back, when it is known who wrote them.

A memory may have been where others can write: in a run's checkpoints, or in a thread on a server. Reading a value that
LangGraph serialized calls what it names, so a text is read as it is only if this user, or a process with the same
`COLLAB_AGENTS_KEY`, wrote it. Any other may hold messages, plain values and the types in the app's own state.
"""

import base64
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from collab_agents._internal.sealing import KEY_VARIABLE, is_sealed, seal_of
from collab_agents._internal.secrets import mask_bytes
from collab_agents._internal.serde import Types, refused_types, strict
from collab_agents.errors import ConfigError

_SERDE = JsonPlusSerializer()
_PACKED = re.compile(rb"(\w{1,16}):((?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?):([0-9a-f]{64})")


def pack(value: Any) -> str:
    """Any value that LangGraph can serialize as a text, which a branch copies for nothing and cannot change.

    Raises TypeError or ValueError for one that it cannot.
    """
    kind, data = _SERDE.dumps_typed(value)
    return f"{kind}:{base64.b64encode(data).decode()}:{seal_of(_sealed(kind, data))}"


def mask_packed(data: bytes) -> bytes:
    """The bytes with stars for every known key, also in the packed values inside, which stay readable."""

    def masked(found: re.Match[bytes]) -> bytes:
        kind, text, seal = found.groups()
        before = base64.b64decode(text)
        after = mask_packed(before)
        if after == before:
            return found[0]
        if is_sealed(_sealed(kind.decode(), before), seal.decode()):
            seal = seal_of(_sealed(kind.decode(), after)).encode()
        return b":".join([kind, base64.b64encode(after), seal])

    return _PACKED.sub(masked, mask_bytes(data))


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
    """What is serialized once more inside, as the values of a thread are, whatever kind of collection holds it."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, Collection) or isinstance(one, str | bytes | bytearray):
            continue
        inside = list(one)
        if len(inside) == 2:
            for kind, data in (inside, inside[::-1]):  # A set has no order.
                if isinstance(kind, str) and isinstance(data, bytes | bytearray):
                    yield kind, bytes(data)
        waiting += inside
        if isinstance(one, Mapping):
            waiting += one.values()
