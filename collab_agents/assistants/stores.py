"""A LangGraph store that a branch may write to: what it writes is its own, the rest is read from the app's store."""

from collections.abc import Iterable
from typing import Any

from langgraph.store.base import BaseStore, GetOp, Item, ListNamespacesOp, Op, PutOp, Result, SearchItem, SearchOp
from langgraph.store.memory import InMemoryStore

_ALL = 1_000_000


class ForkedStore(BaseStore):
    """Reads through to `base` and keeps what is written apart, as `written`: [namespace, key, value or None].

    What was written comes first in a search, without a score where the search asks for meaning.
    """

    def __init__(self, base: BaseStore, written: Iterable[tuple[list[str], str, dict[str, Any] | None]] = ()) -> None:
        self._base = base
        self._own = InMemoryStore()
        self._deleted: set[tuple[tuple[str, ...], str]] = set()
        for namespace, key, value in written:
            self._write(PutOp(tuple(namespace), key, value))

    @property
    def written(self) -> list[tuple[list[str], str, dict[str, Any] | None]]:
        own = self._own.search((), limit=_ALL)
        written: list[tuple[list[str], str, dict[str, Any] | None]] = []
        written += [(list(item.namespace), item.key, item.value) for item in own]
        return [*written, *((list(namespace), key, None) for namespace, key in sorted(self._deleted))]

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        asked = [(op, self._question(op)) for op in ops]
        answers = iter(self._base.batch([question for _, question in asked if question is not None]))
        return [self._answer(op, None if question is None else next(answers)) for op, question in asked]

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        asked = [(op, self._question(op)) for op in ops]
        answers = iter(await self._base.abatch([question for _, question in asked if question is not None]))
        return [self._answer(op, None if question is None else next(answers)) for op, question in asked]

    def _question(self, op: Op) -> Op | None:
        """What the base has to be asked for the operation."""
        if isinstance(op, PutOp):
            self._write(op)
            return None
        if isinstance(op, GetOp):
            return None if self._is_own(op.namespace, op.key) else op
        if isinstance(op, SearchOp):
            return op._replace(limit=op.offset + op.limit + len(self.written), offset=0)
        assert isinstance(op, ListNamespacesOp)
        return op._replace(limit=_ALL, offset=0)

    def _answer(self, op: Op, found: Any) -> Result:
        if isinstance(op, GetOp):
            return self._own.get(op.namespace, op.key) if self._is_own(op.namespace, op.key) else found
        if isinstance(op, SearchOp):
            own = self._own.search(op.namespace_prefix, filter=op.filter, limit=_ALL)
            rest: list[SearchItem] = [item for item in found if not self._is_own(item.namespace, item.key)]
            return [*own, *rest][op.offset : op.offset + op.limit]
        if isinstance(op, ListNamespacesOp):
            mine: Any = self._own.batch([op._replace(limit=_ALL, offset=0)])[0]
            return sorted({*found, *mine})[op.offset : op.offset + op.limit]
        return None

    def _write(self, op: PutOp) -> None:
        self._own.batch([op._replace(index=False, ttl=None)])
        if op.value is None:
            self._deleted.add((op.namespace, op.key))
        else:
            self._deleted.discard((op.namespace, op.key))

    def _is_own(self, namespace: tuple[str, ...], key: str) -> bool:
        own: Item | None = self._own.get(namespace, key)
        return own is not None or (namespace, key) in self._deleted
