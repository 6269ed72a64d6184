"""Serialize an app's values to strings in an assistant's memory, and read them back safely.

A memory may have been stored where others can write: in a run's checkpoints, or in a thread on a server. Reading a
value that LangGraph serialized calls the constructors it names, so a string is trusted only if this user, or a process
with the same `COLLAB_AGENTS_KEY`, wrote it. Any other string may hold only messages, plain values and the types that
the app's own state declares.
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


_SEAL = re.compile(rb":[0-9a-f]{64}")
"""The end of a packed value, which is found much faster than its beginning."""


def pack(value: object) -> str:
    """Serialize a value to a sealed string, which branches share without copying.

    Raises TypeError or ValueError if LangGraph cannot serialize the value.
    """
    kind, data = _SERDE.dumps_typed(value)
    return f"{kind}:{base64.b64encode(data).decode()}:{seal_of(_sealed(kind, data))}"


def mask_packed(data: bytes) -> bytes:
    """Mask every known API key in the bytes, also inside packed values, which stay readable."""

    def masked(found: re.Match[bytes]) -> bytes:
        kind, text, seal = found.groups()
        before = base64.b64decode(text)
        after = mask_packed(before)
        if after == before:
            return found[0]
        if is_sealed(_sealed(kind.decode(), before), seal.decode()):
            seal = seal_of(_sealed(kind.decode(), after)).encode()
        return b":".join([kind, base64.b64encode(after), seal])

    data = mask_bytes(data)
    return _PACKED.sub(masked, data) if _SEAL.search(data) else data


def unpack(text: str) -> Any:
    """Deserialize a packed value, which must have passed `check_packed`."""
    kind, data, _ = _parts(text)
    return _SERDE.loads_typed((kind, data))


def check_packed(texts: Iterable[str], types: Types) -> None:
    """Raise ConfigError if a packed value was written by someone else and holds types other than these."""
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
            f"app's state does not declare: set {KEY_VARIABLE} to the same secret on both, or start without it"
        )
    for inner in _serialized_in(value):
        _check(*inner, types)


def _serialized_in(value: object) -> Iterator[tuple[str, bytes]]:
    """Find serialized values nested in any collection, such as the values of a thread."""
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
