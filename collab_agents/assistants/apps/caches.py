"""A LangGraph node cache for a branch: writes stay in the branch, everything else is read from the app's caches."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langgraph.cache.base import BaseCache, FullKey, Namespace

from collab_agents.assistants.apps.packing import pack, unpack

Written = Sequence[Any]
"""A value that was written to a cache, as JSON: its namespace, its key, the packed value, and its seconds to live."""


class ForkedCache(BaseCache[object]):
    """Reads through to the caches of an app's graphs and keeps its own writes separately, as JSON in `written`."""

    def __init__(self, bases: Sequence[BaseCache[object]], written: Iterable[Written] = ()) -> None:
        super().__init__()
        self._bases = bases
        self._own: dict[FullKey, tuple[str, int | None]] = {}
        self._cleared: list[Namespace] | None = []  # None means all.
        for namespace, key, value, ttl in written:
            self._own[tuple(namespace), key] = (value, ttl)

    @property
    def written(self) -> list[Written]:
        return [[list(namespace), key, value, ttl] for (namespace, key), (value, ttl) in self._own.items()]

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, object]:
        found = self._found(keys)
        for base in self._bases:
            found |= base.get(self._missing(keys, found))
        return found

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, object]:
        found = self._found(keys)
        for base in self._bases:
            found |= await base.aget(self._missing(keys, found))
        return found

    def set(self, pairs: Mapping[FullKey, tuple[object, int | None]]) -> None:
        for (namespace, key), (value, ttl) in pairs.items():
            self._own[tuple(namespace), key] = (pack(value), ttl)

    async def aset(self, pairs: Mapping[FullKey, tuple[object, int | None]]) -> None:
        self.set(pairs)

    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        if namespaces is None:
            self._own, self._cleared = {}, None
        else:
            self._own = {key: one for key, one in self._own.items() if key[0] not in namespaces}
            self._cleared = None if self._cleared is None else [*self._cleared, *namespaces]

    async def aclear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        self.clear(namespaces)

    def _found(self, keys: Sequence[FullKey]) -> dict[FullKey, object]:
        return {key: unpack(self._own[key][0]) for key in keys if key in self._own}

    def _missing(self, keys: Sequence[FullKey], found: Mapping[FullKey, object]) -> list[FullKey]:
        cleared = self._cleared
        return [] if cleared is None else [key for key in keys if key not in found and key[0] not in cleared]


async def write_to(bases: Sequence[BaseCache[object]], written: Iterable[Written]) -> None:
    """Apply a branch's writes to the app's own caches."""
    pairs = {(tuple(namespace), key): (unpack(value), ttl) for namespace, key, value, ttl in written}
    for base in bases:
        await base.aset(pairs)
