"""A LangGraph store for a branch: writes stay in the branch, everything else is read from the app's store."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from collab_agents._internal.copies import own_copy
from collab_agents._internal.place import task_around

T = TypeVar("T")

Written = Sequence[Any]
"""A write to a store, as the fields of its `PutOp` in JSON values."""

_ALL = 1_000_000


class ForkedStore(BaseStore):
    """Reads through to `base` and keeps its own writes separately.

    Search results keep the store's order. In a semantic search, items written in the branch come first, without a
    score. Items written in the branch do not expire. Items that are read are copies, so changing one in place has no
    effect on the store.
    """

    supports_ttl = True

    def __init__(self, base: BaseStore, written: Iterable[Written] = ()) -> None:
        self._base = _Original(base)
        self.over = False
        """Whether the branch has ended and its operations go to the live store."""
        self._log: list[tuple[str, PutOp]] = []
        self._begin([("", put_of(one)) for one in written])

    @property
    def written(self) -> list[Written]:
        """The last write to each key, as the fields of its `PutOp` in JSON values."""
        return [[list(op.namespace), *op[1:]] for op in self._puts.values()]

    def forget(self, runs_again: Callable[[str], bool]) -> None:
        """Undo the writes of LangGraph tasks that run again, given by namespace."""
        kept = [(place, op) for place, op in self._log if not runs_again(place)]
        if len(kept) < len(self._log):
            self._begin(kept)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        asked = [(op, self._question(op)) for op in ops]
        answers = iter(self._base.batch([question for _, question in asked if question is not None]))
        return [self._answer(op, None if question is None else next(answers)) for op, question in asked]

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        asked = [(op, self._question(op)) for op in ops]
        answers = iter(await self._base.abatch([question for _, question in asked if question is not None]))
        return [self._answer(op, None if question is None else next(answers)) for op, question in asked]

    def _begin(self, log: list[tuple[str, PutOp]]) -> None:
        self._own = InMemoryStore()
        self._puts: dict[tuple[tuple[str, ...], str], PutOp] = {}
        self._log = []
        for place, op in log:
            self._write(op, place)

    def _question(self, op: Op) -> Op | None:
        """Return the operation to run on the base store, or None."""
        if isinstance(op, PutOp):
            self._write(op._replace(value=own_copy(op.value)), task_around())
            return None
        if isinstance(op, GetOp):
            return None if self._is_own(op.namespace, op.key) else op
        if isinstance(op, SearchOp):
            return op._replace(limit=op.offset + op.limit + len(self._puts), offset=0)
        assert isinstance(op, ListNamespacesOp)
        return op._replace(limit=_ALL, offset=0)

    def _answer(self, op: Op, found: Any) -> Result:
        if isinstance(op, GetOp):
            return _copy(self._own.get(op.namespace, op.key) if self._is_own(op.namespace, op.key) else found)
        if isinstance(op, SearchOp):
            return [_copy(item) for item in self._merged(op, found)[op.offset : op.offset + op.limit]]
        if isinstance(op, ListNamespacesOp):
            mine: Any = self._own.batch([op._replace(limit=_ALL, offset=0)])[0]
            return sorted({*found, *mine})[op.offset : op.offset + op.limit]
        return None

    def _merged(self, op: SearchOp, found: Sequence[SearchItem]) -> list[SearchItem]:
        own = {
            (item.namespace, item.key): item
            for item in self._own.search(op.namespace_prefix, filter=op.filter, limit=_ALL)
        }
        if self._base.keeps_order and not (op.query and self._base.ranks):
            # In the order in which keys were first written, as in InMemoryStore.
            old = [own.pop((item.namespace, item.key), item) for item in found if self._is_there(own, item)]
            return [*old, *own.values()]
        return [*own.values(), *(item for item in found if not self._is_own(item.namespace, item.key))]

    def _is_there(self, own: Mapping[tuple[tuple[str, ...], str], SearchItem], item: SearchItem) -> bool:
        return (item.namespace, item.key) in own or not self._is_own(item.namespace, item.key)

    def _write(self, op: PutOp, place: str) -> None:
        self._own.batch([op._replace(index=False, ttl=None)])
        self._puts[op.namespace, op.key] = op
        self._log.append((place, op))

    def _is_own(self, namespace: tuple[str, ...], key: str) -> bool:
        return (namespace, key) in self._puts


def put_of(written: Written) -> PutOp:
    """Return the operation that made an entry of `ForkedStore.written`."""
    namespace, *rest = written
    return PutOp(tuple(namespace), *rest)


def _copy(item: T) -> T:
    if not isinstance(item, Item):
        return item
    copied = object.__new__(type(item))
    for name in {name for kind in type(item).__mro__ for name in getattr(kind, "__slots__", ())}:
        setattr(copied, name, getattr(item, name))
    copied.value = own_copy(item.value)
    return copied


# An app or its tools may hold a reference to the live store. So in a branch the app uses the live store too, which
# there redirects its operations to the branch's fork.

_forks: ContextVar[Mapping[int, ForkedStore]] = ContextVar("collab_agents_stores", default=MappingProxyType({}))

_METHODS = ("batch", "get", "search", "put", "delete", "list_namespaces")


def make_forkable(store: BaseStore) -> bool:
    """Let `forked` redirect a live store's operations to a fork, or return False if its class does not allow that."""
    if not isinstance(store, _Forkable):
        try:
            store.__class__ = _forkable(type(store))
        except TypeError:
            return False
    return True


@contextmanager
def forked(store: BaseStore, fork: ForkedStore) -> Iterator[None]:
    """Redirect the store's operations to the fork."""
    token = _forks.set({**_forks.get(), id(store): fork})
    try:
        yield
    finally:
        _forks.reset(token)


class _Forkable:
    __slots__ = ()


@cache
def _forkable(kind: type[BaseStore]) -> Any:
    def led(name: str) -> Callable[..., object]:
        original = getattr(kind, name)

        def method(self: BaseStore, *arguments: object, **options: object) -> object:
            fork = _forks.get().get(id(self))
            if fork is None or fork.over:
                return original(self, *arguments, **options)
            return getattr(fork, name)(*arguments, **options)

        return method

    methods = {name: led(name) for each in _METHODS for name in (each, f"a{each}")}
    about = {"__slots__": (), "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (_Forkable, kind), {**about, **methods})


async def abatch(store: BaseStore, ops: Sequence[Op], kind: type[BaseStore] | None = None) -> list[Result]:
    """Run a batch of operations, on a thread if the store is sync only, such as SqliteStore."""
    kind = kind or type(store)
    try:
        return await kind.abatch(store, ops)
    except NotImplementedError:
        return await asyncio.to_thread(kind.batch, store, ops)


class _Original:
    """A store as seen from outside the innermost branch: the enclosing branch's fork, or the live store."""

    def __init__(self, store: BaseStore) -> None:
        self._store = _forks.get().get(id(store), store)
        outer = self._store._base if isinstance(self._store, ForkedStore) else None
        self.keeps_order: bool = outer.keeps_order if outer else isinstance(self._store, InMemoryStore)
        self.ranks: bool = outer.ranks if outer else bool(getattr(self._store, "index_config", None))
        self._kind: Any = type(self._store).__mro__[2] if isinstance(self._store, _Forkable) else type(self._store)

    def batch(self, ops: list[Op]) -> list[Result]:
        return self._kind.batch(self._store, ops) if ops else []

    async def abatch(self, ops: list[Op]) -> list[Result]:
        return await abatch(self._store, ops, self._kind) if ops else []
