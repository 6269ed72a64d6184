"""One turn of an app, played apart from everything else: a local Runnable or graph, or a deployment."""

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs, var_child_runnable_config
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphRecursionError
from langgraph.pregel import Pregel
from langgraph.pregel.remote import RemoteGraph
from langgraph.runtime import get_runtime
from langgraph.types import Interrupt

from collab_agents.assistants.simulation import App
from collab_agents.assistants.stores import ForkedStore, put_of
from collab_agents.assistants.threads import BranchSaver, Saver, capture, commit, restore
from collab_agents.errors import ConfigError, RolloutError, reason_of
from collab_agents.settings import Settings
from collab_agents.tracing import with_handlers
from collab_agents.usage import counting_all_models

THREAD = "simulation"
"""The thread id that an app sees where its live thread has none."""

_COORDINATES = {"thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "run_id"}
"""Where a run is. By its run_id, which a server sets, LangGraph takes a thread's next turn in the same run for a

resumption of the last one, and drops the input.
"""


class AppError(RolloutError):
    """An app gave no reply: it raised, did not end, or answered with something that is not one."""


@dataclass
class Played:
    """What came of a run of the app.

    before: the values of its thread before the run. values: its output, or its state where it has a thread.
    interrupts: what it waits for. branch: what has to be remembered of its thread, as JSON values. updates: what its
    nodes returned, in their order.
    """

    before: Any
    values: Any
    interrupts: list[Interrupt] = field(default_factory=list)
    branch: dict[str, Any] = field(default_factory=dict)
    updates: list[Any] = field(default_factory=list)


class Player(Protocol):
    name: str

    async def play(self, branch: Mapping[str, Any], given: Any, config: RunnableConfig, context: Any) -> Played:
        """Run the app on from `branch`, {} at first. `branch` and everything it stands for stay as they are."""
        ...

    async def fork(self, thread: RunnableConfig) -> tuple[Any, list[Interrupt], dict[str, Any]]:
        """The values of a live thread, what it waits for, and a branch that begins there."""
        ...

    async def commit(self, branch: Mapping[str, Any]) -> dict[str, Any]:
        """Put what the branch has come to into the live thread and store. Returns the branch, to go on with."""
        ...


class LocalPlayer:
    """An app in this process. One with a checkpointer, or one that may be interrupted, gets a thread."""

    def __init__(self, app: Runnable[Any, Any], name: str, *, timeout: float | None, interruptible: bool) -> None:
        self.name = name
        self.app = app
        self.timeout = timeout
        self.graph: App | None = app if isinstance(app, Pregel) else None
        self.saver: Saver | None = None
        own = self.graph.checkpointer if self.graph else None
        self.remembers = isinstance(own, BaseCheckpointSaver)
        if self.graph and isinstance(own, BaseCheckpointSaver):
            # With the app's own types among those that may be read back, where LangGraph knows them.
            self.saver = getattr(self.graph, "_apply_checkpointer_allowlist", lambda saver: saver)(own)
        elif self.graph and interruptible:
            self.saver = InMemorySaver()

    async def play(self, branch: Mapping[str, Any], given: Any, config: RunnableConfig, context: Any) -> Played:
        with own_root() as around:
            config = merge_configs(around, config)
            if self.graph is None:
                return Played({}, await self._called(given, config))
            return await self._run(self.graph, branch, given, config, context)

    async def fork(self, thread: RunnableConfig) -> tuple[Any, list[Interrupt], dict[str, Any]]:
        if self.graph is None or self.saver is None:
            raise ConfigError(f"app {self.name!r} has no checkpointer, and so no thread to fork")
        captured = await capture(self.graph, self.saver, thread)
        thread_id = thread["configurable"]["thread_id"]
        if captured is None:
            raise ConfigError(f"app {self.name!r} has no thread {thread_id!r}")
        at: RunnableConfig = {"configurable": {"thread_id": thread_id}}
        saver = BranchSaver(self.saver)
        await restore(saver, captured, thread_id)
        state = await self.graph.copy({"checkpointer": saver}).aget_state(at)
        since = state.config["configurable"]["checkpoint_id"]
        return state.values, list(state.interrupts), {"thread_id": thread_id, "thread": captured, "since": since}

    async def commit(self, branch: Mapping[str, Any]) -> dict[str, Any]:
        if self.graph is None or self.saver is None or "since" not in branch:
            raise ConfigError(f"app {self.name!r}: only what began with fork can be committed")
        head = await commit(self.saver, branch["thread"], branch["thread_id"], branch["since"])
        if self.graph.store and "store" in branch:
            await self.graph.store.abatch([put_of(written) for written in branch["store"]])
        return {key: value for key, value in branch.items() if key != "store"} | {"since": head}

    async def _called(self, given: Any, config: RunnableConfig) -> Any:
        try:
            async with asyncio.timeout(self.timeout) as limit:
                return await self.app.ainvoke(given, config)
        except Exception as error:
            if limit.expired():
                raise AppError(f"app {self.name!r}: no reply within {self.timeout:g} s") from error
            raise AppError(f"app {self.name!r}: {_reason(error)}") from error

    async def _run(
        self, graph: App, branch: Mapping[str, Any], given: Any, config: RunnableConfig, context: Any
    ) -> Played:
        thread_id = branch.get("thread_id", THREAD)
        config = merge_configs(config, {"configurable": {"thread_id": thread_id}})
        at: RunnableConfig = {"configurable": {"thread_id": thread_id}}
        changes: dict[str, Any] = {}
        saver = BranchSaver(self.saver) if self.saver else None
        if saver:
            changes["checkpointer"] = saver
            if "thread" in branch:
                await restore(saver, branch["thread"], thread_id)
        store = ForkedStore(graph.store, branch.get("store", ())) if graph.store else None
        if store:
            changes["store"] = store
        graph = graph.copy(changes) if changes else graph
        before = (await graph.aget_state(at)).values if "thread" in branch else {}
        played = Played(before, None)
        await self._stream(graph, given, config, {} if context is None else {"context": context}, played)
        played.branch = {key: branch[key] for key in ("since",) if key in branch} | {"thread_id": thread_id}
        if saver and (self.remembers or played.interrupts):
            state = await graph.aget_state(at)
            if state.next and not played.interrupts:
                before_node = f"it stopped before node {state.next[0]!r}"
                raise AppError(f"app {self.name!r}: {before_node}, by interrupt_before or interrupt_after")
            played.values = state.values
            played.branch["thread"] = await capture(graph, saver, at)
        if store and store.written:
            played.branch["store"] = store.written
        return played

    async def _stream(
        self, graph: App, given: Any, config: RunnableConfig, more: dict[str, Any], played: Played
    ) -> None:
        """Run it, and note what comes of it."""
        interrupts: dict[str, Interrupt] = {}
        node = ""
        if graph.checkpointer:
            more = more | {"durability": "exit"}
        try:
            async with asyncio.timeout(self.timeout) as limit:
                async for mode, event in graph.astream(given, config, stream_mode=["updates", "values"], **more):
                    if mode == "values":
                        played.values = event
                        continue
                    interrupts |= {one.id: one for one in event.get("__interrupt__", ())}
                    played.updates += (update for name, update in event.items() if not name.startswith("__"))
                    node = next((name for name in reversed(event) if not name.startswith("__")), node)
        except Exception as error:
            after = f"app {self.name!r}{f', after node {node!r}' if node else ''}"
            if isinstance(error, GraphRecursionError):
                raise AppError(f"{after}: it did not end within {config['recursion_limit']} steps") from error
            if limit.expired():
                raise AppError(f"{after}: no reply within {self.timeout:g} s") from error
            raise AppError(f"app {self.name!r}{_node(error)}: {_reason(error)}") from error
        played.interrupts = list(interrupts.values())


class RemotePlayer:
    """A LangGraph deployment. Every turn is played on a copy of the thread, which the deployment makes."""

    def __init__(self, app: RemoteGraph, name: str, *, timeout: float | None) -> None:
        if app.client is None:
            raise ConfigError(f"app {name!r}: a RemoteGraph needs a url or an async client")
        self.name = name
        self.app = app
        self.timeout = timeout
        self.client = app.client
        self.made: set[str] = set()
        """The threads made for branches, until they are deleted."""

    async def play(self, branch: Mapping[str, Any], given: Any, config: RunnableConfig, context: Any) -> Played:
        try:
            with own_root() as around:
                config = merge_configs(around, config)
                async with asyncio.timeout(self.timeout) as limit:
                    return await self._run(branch, given, config, {} if context is None else {"context": context})
        except Exception as error:
            if limit.expired():
                raise AppError(f"app {self.name!r}: no reply within {self.timeout:g} s") from error
            raise AppError(f"app {self.name!r}: {_reason(error)}") from error

    async def _run(self, branch: Mapping[str, Any], given: Any, config: RunnableConfig, more: dict[str, Any]) -> Played:
        before: Any = {}
        if "remote" in branch:
            before = (await self.client.threads.get_state(branch["remote"]))["values"]
            thread_id = await self._copy(branch["remote"])
        else:
            thread_id = (await self.client.threads.create(metadata={"made_by": "collab-agents"}))["thread_id"]
            self.made.add(thread_id)
        config = merge_configs(config, {"configurable": {"thread_id": thread_id}})
        values: Any = None
        async for event in self.app.astream(given, config, stream_mode="values", **more):
            values = event
        asked = values.pop("__interrupt__", ()) if isinstance(values, dict) else ()
        return Played(before, values, _interrupts(asked), {"remote": thread_id})

    async def fork(self, thread: RunnableConfig) -> tuple[Any, list[Interrupt], dict[str, Any]]:
        thread_id = thread["configurable"]["thread_id"]
        if thread["configurable"].get("checkpoint_id"):
            raise ConfigError(f"app {self.name!r}: a deployment's thread is copied as it is, at no checkpoint_id")
        try:
            copied = await self._copy(thread_id)
            state = await self.client.threads.get_state(copied)
        except Exception as error:
            raise ConfigError(f"app {self.name!r} has no thread {thread_id!r}: {_reason(error)}") from error
        asked = [one for task in state["tasks"] for one in task.get("interrupts", ())]
        return state["values"], _interrupts(asked), {"remote": copied}

    async def commit(self, branch: Mapping[str, Any]) -> dict[str, Any]:
        raise ConfigError(f"app {self.name!r}: a deployment's thread cannot be written to; go on with the fork")

    async def _copy(self, thread_id: str) -> str:
        made: Any = await cast(Any, self.client.threads.copy(thread_id))
        self.made.add(made["thread_id"])
        return made["thread_id"]

    async def delete_threads(self) -> None:
        while self.made:
            await self.client.threads.delete(self.made.pop())


@contextmanager
def own_root() -> Iterator[RunnableConfig]:
    """What is called inside is no part of the graph around, whose checkpointer, thread and stream it would else use.

    It stays in its trace, and its model calls are counted. Gives what the caller configured, to be handed on.
    """
    around: Any = var_child_runnable_config.get() or {}
    kept = {key: around[key] for key in ("tags", "metadata") if around.get(key)}
    if "metadata" in kept:
        kept["metadata"] = {key: value for key, value in kept["metadata"].items() if key != "run_id"}
    with counting_all_models() as counters:
        callbacks = with_handlers(around.get("callbacks"), counters)
        config: Any = {**kept, "callbacks": callbacks}
        token = var_child_runnable_config.set(config)
        try:
            yield {"configurable": without_coordinates(around.get("configurable", {}))}
        finally:
            var_child_runnable_config.reset(token)


def without_coordinates(configurable: Mapping[str, Any]) -> dict[str, Any]:
    """What somebody configured, without where their own run is, which is not where a branch goes on."""
    return {key: one for key, one in configurable.items() if key not in _COORDINATES and not key.startswith("__")}


def context_around() -> Any:
    """The runtime context of the graph that this is called in, if any; a served graph's settings are nobody else's."""
    try:
        context = get_runtime().context
    except (RuntimeError, KeyError):
        return None
    return None if isinstance(context, Settings) else context


def _interrupts(asked: Iterable[Mapping[str, Any]]) -> list[Interrupt]:
    return [Interrupt(value=one["value"], id=one.get("id") or "") for one in asked]


def _node(error: BaseException) -> str:
    """LangGraph notes on an exception in which task it was raised, the innermost first."""
    tasks = (re.match(r"During task with name '(.*)' and id", note) for note in getattr(error, "__notes__", ()))
    path = [task.group(1) for task in tasks if task]
    return f", node {' in '.join(repr(name) for name in path)}" if path else ""


def _reason(error: BaseException) -> str:
    return reason_of(error) if str(error) else type(error).__name__
