"""A live app with its checkpointer, store and caches, and the branches in which it runs on copies of them."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.cache.base import BaseCache
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Interrupt, StateSnapshot

from collab_agents._internal import langgraph_private
from collab_agents._internal.serde import Types
from collab_agents.assistants.apps.caches import ForkedCache, write_to
from collab_agents.assistants.apps.stores import ForkedStore, abatch, forked, make_forkable, put_of
from collab_agents.assistants.apps.subgraphs import App, graphs_in
from collab_agents.assistants.apps.threads import (
    BranchSaver,
    Captured,
    Saver,
    check_unchanged,
    commit,
    fork,
    needs_history,
)
from collab_agents.errors import ConfigError

THREAD = "simulation"
"""The thread id that an app sees in a branch that did not start from a live thread."""

Kept = Mapping[str, Any]
"""A branch between turns, as JSON values.

- `thread_id`: the thread's id.
- `thread`, `store`, `cache`: what the branch wrote to each, on top of the live ones.
- `since`: the live thread's last checkpoint, if the branch began with a fork (None: the thread did not exist).
- `was_simulated`: whether anything in the branch was only simulated.
- `calls`: the counts of model calls, in a branch from which an execution continues.
- `remote`: only this, the thread's id on a deployment, for a `RemoteGraph`.
"""


def packed_in(kept: Kept) -> list[str]:
    """Return the packed values in a branch."""
    thread = [kept["thread"]] if "thread" in kept else []
    return thread + [value for _, _, value, _ in kept.get("cache", ())]


def types_in(graph: App) -> Types:
    """Return the types declared by the states of a graph and its subgraphs."""
    return frozenset().union(*map(langgraph_private.types_in_state, graphs_in(graph)))


class LiveApp:
    """A compiled graph with its own checkpointer, store and node caches."""

    def __init__(self, graph: App, name: str) -> None:
        self.graph = graph
        self.name = name
        own = graph.checkpointer
        self.saver: Saver | None = None
        if isinstance(own, BaseCheckpointSaver):
            self.saver = langgraph_private.reading_own_types(graph, own)
        self.store_is_forkable = make_forkable(graph.store) if graph.store else True
        graphs = graphs_in(graph)
        for one in graphs:
            if one is not graph and isinstance(one.checkpointer, BaseCheckpointSaver):
                warnings.warn(
                    f"app {name!r}: its graph {one.get_name()!r} has a checkpointer of its own, to which "
                    "simulations write; compile it with checkpointer=None or True instead",
                    stacklevel=5,
                )
        self.caches: list[BaseCache[object]] = list({id(one.cache): one.cache for one in graphs if one.cache}.values())
        self.needs_history = needs_history(graphs)

    async def fork(self, thread: RunnableConfig) -> tuple[object, list[Interrupt], Kept]:
        """Return the values of a live thread, the interrupts it waits for, and a branch that begins there."""
        if self.saver is None:
            raise ConfigError(f"app {self.name!r} has no checkpointer, and so no thread to fork")
        # LangGraph stores thread ids as strings.
        thread_id, checkpoint_id = str(thread["configurable"]["thread_id"]), thread["configurable"].get("checkpoint_id")
        thread = {"configurable": {**thread["configurable"], "thread_id": thread_id}}
        saver = await fork(self.saver, thread, history=self.needs_history)
        if saver is None and checkpoint_id:
            raise ConfigError(f"app {self.name!r} has no checkpoint {checkpoint_id!r} in thread {thread_id!r}")
        if saver is None:
            return {}, [], {"thread_id": thread_id, "since": None}
        state = await self.graph.copy({"checkpointer": saver}).aget_state(_at(thread_id))
        text = saver.capture(thread_id, history=self.needs_history).text
        since = state.config["configurable"]["checkpoint_id"]
        return state.values, list(state.interrupts), {"thread_id": thread_id, "thread": text, "since": since}

    async def check_unchanged(self, kept: Kept) -> None:
        """Raise RolloutError if the branch began with a fork of a thread that has changed since."""
        if self.saver and "since" in kept:
            await check_unchanged(self.saver, kept["thread_id"], kept["since"])

    async def commit(self, kept: Kept) -> Kept:
        """Write the branch to the live thread, store and caches, and return the branch to continue with."""
        if self.saver is None or "since" not in kept:
            raise ConfigError(f"app {self.name!r}: only what began with fork can be committed")
        if "thread" not in kept:
            raise ConfigError(f"app {self.name!r}: there is nothing to commit yet: no turn has run on the fork")
        await self.check_unchanged(kept)
        settled = await self.settle(kept)  # First, because it can be repeated if the rest fails.
        head = await commit(self.saver, kept["thread"], kept["thread_id"], kept["since"])
        return {**settled, "since": head}

    async def settle(self, kept: Kept) -> Kept:
        """Apply the branch's writes to the live store and caches, and return the branch to continue with."""
        if self.graph.store and kept.get("store"):
            await abatch(self.graph.store, [put_of(written) for written in kept["store"]])
        if kept.get("cache"):
            await write_to(self.caches, kept["cache"])
        return {key: value for key, value in kept.items() if key not in ("store", "cache")}


class Branch:
    """A branch while a turn runs on it.

    `keeps_thread` makes the graph resumable in the branch even if the app has no checkpointer.
    """

    def __init__(self, app: LiveApp, kept: Kept, *, keeps_thread: bool) -> None:
        self._app = app
        self._kept = kept
        self.thread_id: str = kept.get("thread_id", THREAD)
        self.saver = BranchSaver(app.saver) if app.saver or keeps_thread or "thread" in kept else None
        if self.saver and "thread" in kept:
            self.saver.restore(kept["thread"], self.thread_id)
        live = app.graph.store
        self.store = ForkedStore(live, kept.get("store", ())) if live else None
        self.cache = ForkedCache(app.caches, kept.get("cache", ())) if app.caches else None
        changes: dict[str, object] = {"checkpointer": self.saver} if self.saver else {}
        if not app.store_is_forkable:
            changes["store"] = self.store
        self.graph = app.graph.copy(changes) if changes else app.graph

    @property
    def configurable(self) -> dict[str, object]:
        cache = {langgraph_private.CACHE: self.cache} if self.cache else {}
        return {"thread_id": self.thread_id, **cache}

    @contextmanager
    def isolated(self, *, over: bool) -> Iterator[None]:
        """Redirect the live store to the branch's store.

        With `over`, tasks that outlive the context write to the live store, as those of an executed turn do.
        """
        live = self._app.graph.store
        if self.store is None or live is None or not self._app.store_is_forkable:
            yield
            return
        with forked(live, self.store):
            yield
        self.store.over = over

    async def state(self) -> StateSnapshot:
        return await self.graph.aget_state(_at(self.thread_id))

    async def values(self) -> object:
        """Return the values of the thread that the branch began with, or {} if there was none."""
        return (await self.state()).values if "thread" in self._kept else {}

    def capture(self) -> Captured:
        """Capture the thread. Raises TypeError for a state that cannot be serialized."""
        assert self.saver is not None
        return self.saver.capture(self.thread_id, history=self._app.needs_history)

    def forget(self, captured: Captured) -> None:
        """Undo store writes of tasks that run again when the captured thread is resumed."""
        if self.store:
            self.store.forget(captured.runs_again)

    def keep(self, captured: Captured | None, *, was_simulated: bool = False) -> Kept:
        """Return the branch as it is now, marked `was_simulated` if anything in the turn was only simulated."""
        kept = {key: self._kept[key] for key in ("since", "was_simulated") if key in self._kept}
        kept["thread_id"] = self.thread_id
        if captured:
            kept["thread"] = captured.text
        if self.store and self.store.written:
            kept["store"] = self.store.written
        if self.cache and self.cache.written:
            kept["cache"] = self.cache.written
        if was_simulated:
            kept["was_simulated"] = True
        return kept


def _at(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id}}
