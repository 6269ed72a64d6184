"""A LangGraph store that a branch may write to: what it writes is its own, the rest is read from the app's store."""

from collections.abc import Iterable, Sequence
from typing import Any

from langgraph.store.base import BaseStore, GetOp, ListNamespacesOp, Op, PutOp, Result, SearchItem, SearchOp
from langgraph.store.memory import InMemoryStore

_ALL = 1_000_000


class ForkedStore(BaseStore):
    """Reads through to `base` and keeps what is written apart, as `written`: the fields of a `PutOp` each.

    What was written comes first in a search, without a score where the search asks for meaning, and does not expire.
    """

    supports_ttl = True

    def __init__(self, base: BaseStore, written: Iterable[Sequence[Any]] = ()) -> None:
        self._base = base
        self._own = InMemoryStore()
        self._puts: dict[tuple[tuple[str, ...], str], PutOp] = {}
        for one in written:
            self._write(put_of(one))

    @property
    def written(self) -> list[list[Any]]:
        return [[list(op.namespace), *op[1:]] for op in self._puts.values()]

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
            return op._replace(limit=op.offset + op.limit + len(self._puts), offset=0)
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
        self._puts[op.namespace, op.key] = op

    def _is_own(self, namespace: tuple[str, ...], key: str) -> bool:
        return (namespace, key) in self._puts


def put_of(written: Sequence[Any]) -> PutOp:
    """The operation that wrote one of `ForkedStore.written`."""
    namespace, *rest = written
    return PutOp(tuple(namespace), *rest)
