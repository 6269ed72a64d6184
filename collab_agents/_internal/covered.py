"""How much of a run's files an index of them has read, and where it goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from collab_agents._internal.parts import Part


@dataclass(frozen=True)
class Covered:
    """How much of a part is in an index."""

    file: str
    size: int
    """Bytes. Of a Parquet file, all that it has."""
    lines: int
    tail: bytes
    """A hash of the last of these bytes."""
    whole: bool = True
    """False for a Parquet file with further lines."""


def beginnings(covered: Mapping[str, Covered], parts: Sequence[Part]) -> list[tuple[Part, int, int]] | None:
    """Return the parts with lines that are not covered, how many are, and their bytes; None if others were covered."""
    if not covered.keys() <= {part.name for part in parts}:
        return None
    places = []
    for part in parts:
        known = covered.get(part.name)
        if known is None:
            places.append((part, 0, 0))
        elif known.file != part.path.name:  # It was converted since.
            if not part.columnar or part.count() < known.lines:
                return None
            places.append((part, known.lines, 0))
        elif part.size < known.size or not _may_be_same(known.tail, hashed(part.tail(known.size))):
            return None
        elif part.columnar:
            if part.size > known.size:
                return None
            if not known.whole:
                places.append((part, known.lines, 0))
        elif part.size > known.size:
            places.append((part, known.lines, known.size))
    return places


def hashed(data: bytes) -> bytes:
    return sha256(data).digest() if data else b""


def _may_be_same(one: bytes, other: bytes) -> bool:
    return one == other or not one or not other
