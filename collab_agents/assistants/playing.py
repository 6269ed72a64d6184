"""One turn of an app, played apart from everything else: a local Runnable or graph, or a deployment."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs, var_child_runnable_config
from langgraph.cache.base import BaseCache
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphInterrupt, GraphRecursionError
from langgraph.pregel import Pregel
from langgraph.pregel.remote import RemoteGraph
from langgraph.runtime import get_runtime
from langgraph.types import Interrupt

from collab_agents._internal import langgraph_private
from collab_agents._internal.containment import PASS_THROUGH, Late, contained, within
from collab_agents.assistants.caches import ForkedCache, write_to
from collab_agents.assistants.simulation import Mode, ToolGuard, Turn, is_pause
from collab_agents.assistants.stores import ForkedStore, forked, make_forkable, put_of
from collab_agents.assistants.subgraphs import App, graphs_in
from collab_agents.assistants.threads import BranchSaver, Captured, Saver, check_unchanged, commit, fork, needs_history
from collab_agents.errors import ConfigError, Exited, RolloutError, reason_of
from collab_agents.memory import Memory, branch_copy
from collab_agents.seeds import Calls
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
    """An app gave no reply: it raised, did not end, or answered with something that is not one.

    branch: of a turn that was being executed, what had been done of it, if that is known.
    after: the same as the memory to go on with, where `GraphAssistant.execute` raises it.
    """

    branch: dict[str, Any] | None = None
    after: Memory | None = None


@dataclass
class Played:
    """What came of a run of the app.

    before: the values of its thread before the run. values: its output, or its state where it has a thread.
    interrupts: what it waits for. branch: what has to be remembered of its thread, as JSON values. kept: the branch as
    it was before anything was simulated or an interrupt was answered, if that happened; what executing it begins from.
    """

    before: Any
    values: Any
    interrupts: list[Interrupt] = field(default_factory=list)
    branch: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] | None = None


class Player(Protocol):
    name: str

    async def play(
        self, branch: Mapping[str, Any], given: Any, config: RunnableConfig, context: Any, turn: Turn, calls: Calls
    ) -> Played:
        """Run the app on from `branch`, {} at first. `branch` and everything it stands for stay as they are."""
        ...

    async def values(self, branch: Mapping[str, Any]) -> Any:
        """The values of the branch's thread, {} if it has none."""
        ...

    async def fork(self, thread: RunnableConfig) -> tuple[Any, list[Interrupt], dict[str, Any]]:
        """The values of a live thread, what it waits for, and a branch that begins there."""
        ...

    async def check_unchanged(self, branch: Mapping[str, Any]) -> None:
        """Raises RolloutError if the branch began with a fork of a thread that has gone on since."""
        ...

    async def commit(self, branch: Mapping[str, Any]) -> dict[str, Any]:
        """Put what the branch has come to into the live thread, store and caches. Returns the branch, to go on with."""
        ...

    async def settle(self, branch: Mapping[str, Any]) -> dict[str, Any]:
        """Put what the branch has written into the live store and caches. Returns the branch, to go on with."""
        ...


class LocalPlayer:
    """An app in this process. One with a checkpointer, or that may have to be resumed, gets a thread."""

    def __init__(self, app: Runnable[Any, Any], name: str, *, timeout: float | None, interruptible: bool) -> None:
        self.name = name
        self.app = app
        self.timeout = timeout
        self.interruptible = interruptible
        self.graph: App | None = app if isinstance(app, Pregel) else None
        self.saver: Saver | None = None
        self.store_is_forkable = True
        self.caches: list[BaseCache[Any]] = []
        self.needs_history = False
        if self.graph:
            own = self.graph.checkpointer
            if isinstance(own, BaseCheckpointSaver):
                self.saver = langgraph_private.reading_own_types(self.graph, own)
            if self.graph.store:
                self.store_is_forkable = make_forkable(self.graph.store)
            graphs = graphs_in(self.graph)
            self.caches = list({id(one.cache): one.cache for one in graphs if one.cache}.values())
            self.needs_history = needs_history(graphs)

    async def play(
        self, branch: Mapping[str, Any], given: Any, config: RunnableConfig, context: Any, turn: Turn, calls: Calls
    ) -> Played:
        with own_root() as around, contained(self.timeout):
            if turn.mode is not Mode.executed:
                around["configurable"], _ = branch_copy(around["configurable"], "configurable")
            config = merge_configs(around, config)
            if turn.tools:
                config["callbacks"] = with_handlers(config.get("callbacks"), [ToolGuard()])
            turn.running = True
            try:
                if self.graph is None:
                    return await self._called(given, config, turn)
                return await self._run(self.graph, branch, given, config, context, turn, calls)
            finally:
                turn.running = False

    async def values(self, branch: Mapping[str, Any]) -> Any:
        if self.graph is None or "thread" not in branch:
            return {}
        saver = BranchSaver(self.saver)
        saver.restore(branch["thread"], branch["thread_id"])
        return (await self.graph.copy({"checkpointer": saver}).aget_state(_at(branch["thread_id"]))).values

    async def fork(self, thread: RunnableConfig) -> tuple[Any, list[Interrupt], dict[str, Any]]:
        if self.graph is None or self.saver is None:
            raise ConfigError(f"app {self.name!r} has no checkpointer, and so no thread to fork")
        saver = await fork(self.saver, thread, history=self.needs_history)
        thread_id, checkpoint_id = thread["configurable"]["thread_id"], thread["configurable"].get("checkpoint_id")
        if saver is None:
            if checkpoint_id:
                raise ConfigError(f"app {self.name!r} has no checkpoint {checkpoint_id!r} in thread {thread_id!r}")
            return {}, [], {"thread_id": thread_id, "since": None}
        state = await self.graph.copy({"checkpointer": saver}).aget_state(_at(thread_id))
        since = state.config["configurable"]["checkpoint_id"]
        text = saver.capture(thread_id, history=self.needs_history).text
        return state.values, list(state.interrupts), {"thread_id": thread_id, "thread": text, "since": since}

    async def check_unchanged(self, branch: Mapping[str, Any]) -> None:
        if self.saver and "since" in branch:
            await check_unchanged(self.saver, branch["thread_id"], branch["since"])

    async def commit(self, branch: Mapping[str, Any]) -> dict[str, Any]:
        if self.saver is None or "since" not in branch:
            raise ConfigError(f"app {self.name!r}: only what began with fork can be committed")
        if "thread" not in branch:
            raise ConfigError(f"app {self.name!r}: there is nothing to commit yet: no turn has been played on the fork")
        head = await commit(self.saver, branch["thread"], branch["thread_id"], branch["since"])
        return await self.settle(branch) | {"since": head}

    async def settle(self, branch: Mapping[str, Any]) -> dict[str, Any]:
        if self.graph and self.graph.store and branch.get("store"):
            await self.graph.store.abatch([put_of(written) for written in branch["store"]])
        if branch.get("cache"):
            await write_to(self.caches, branch["cache"])
        return {key: value for key, value in branch.items() if key not in ("store", "cache")}

    async def _called(self, given: Any, config: RunnableConfig, turn: Turn) -> Played:
        kept: dict[str, Any] | None = None
        while True:
            try:
                values = await within(self.timeout, self.app.ainvoke(given, config))
            except GraphInterrupt:
                if turn.mode is not Mode.pausing:
                    raise
                # There is no thread to go on with: executing the turn calls it again.
                turn.mode, turn.paused, kept = Mode.simulated, False, {}
                continue
            except PASS_THROUGH:
                raise
            except BaseException as error:
                raise self._error(error, "", turn) from error
            if turn.problem or turn.paused:
                raise self._error(RolloutError(turn.problem or _SWALLOWED), "", turn)
            return Played({}, values, kept=kept)

    async def _run(
        self,
        graph: App,
        branch: Mapping[str, Any],
        given: Any,
        config: RunnableConfig,
        context: Any,
        turn: Turn,
        calls: Calls,
    ) -> Played:
        thread_id = branch.get("thread_id", THREAD)
        configurable: dict[str, Any] = {"thread_id": thread_id}
        changes: dict[str, Any] = {}
        saver = None
        if self.saver or self.interruptible or turn.mode is not Mode.simulated or "thread" in branch:
            changes["checkpointer"] = saver = BranchSaver(self.saver)
            if "thread" in branch:
                saver.restore(branch["thread"], thread_id)
        cache = ForkedCache(self.caches, branch.get("cache", ())) if self.caches else None
        if cache:
            configurable[langgraph_private.CACHE] = cache
        config = merge_configs(config, {"configurable": configurable})
        store = ForkedStore(graph.store, branch.get("store", ())) if graph.store else None
        if store and not self.store_is_forkable:
            changes["store"] = store
        live, graph = graph.store, graph.copy(changes) if changes else graph

        def as_branch(captured: Captured | None, *, pretended: bool) -> dict[str, Any]:
            after: dict[str, Any] = {key: branch[key] for key in ("since",) if key in branch}
            after["thread_id"] = thread_id
            if captured:
                after["thread"] = captured.text
            if store and store.written:
                after["store"] = store.written
            if cache and cache.written:
                after["cache"] = cache.written
            if pretended or branch.get("pretended"):
                after["pretended"] = True
            return after

        def keep(paused: Captured) -> dict[str, Any]:
            """What executing the turn begins from: the branch as it is, before anything is simulated."""
            calls.forget(paused.runs_again)
            if store:
                store.forget(paused.runs_again)
            turn.mode = Mode.simulated
            return as_branch(paused, pretended=False) | {"calls": calls.dump()}

        played = Played((await graph.aget_state(_at(thread_id))).values if "thread" in branch else {}, None)
        more: dict[str, Any] = {} if context is None else {"context": context}
        with forked(live, store) if live and store and self.store_is_forkable else nullcontext():
            while True:
                turn.paused = False
                try:
                    await self._stream(graph, given, config, more, played, turn)
                except AppError as error:
                    if turn.mode is Mode.executed and saver:
                        left = saver.capture(thread_id, history=self.needs_history)
                        error.branch = as_branch(left, pretended=False)
                    raise
                pauses = [one for one in played.interrupts if is_pause(one)]
                played.interrupts = [one for one in played.interrupts if not is_pause(one)]
                if turn.problem or (turn.paused and not pauses):
                    raise self._error(RolloutError(turn.problem or _SWALLOWED), "", turn)
                if not pauses or not saver:
                    break
                # The turn goes on, with simulated results, from where it paused.
                played.kept = keep(self._captured(saver, thread_id))
                given = None
        captured = None
        if saver and (self.saver or played.interrupts):
            state = await graph.aget_state(_at(thread_id))
            if state.next and not played.interrupts:
                before_node = f"it stopped before node {state.next[0]!r}"
                raise AppError(f"app {self.name!r}: {before_node}, by interrupt_before or interrupt_after")
            played.values = state.values
            captured = self._captured(saver, thread_id)
        played.branch = as_branch(captured, pretended=turn.pretended)
        if captured and played.interrupts and turn.mode is Mode.pausing:
            # Whatever answers the interrupts, this is where executing the turn begins.
            played.kept = keep(captured)
        return played

    def _captured(self, saver: BranchSaver, thread_id: str) -> Captured:
        try:
            return saver.capture(thread_id, history=self.needs_history)
        except (TypeError, ValueError) as error:
            what = "its state cannot be serialized, so what is simulated could not be executed later"
            raise AppError(f"app {self.name!r}: {what}: {reason_of(error)}") from error

    async def _stream(
        self,
        graph: App,
        given: Any,
        config: RunnableConfig,
        more: dict[str, Any],
        played: Played,
        turn: Turn,
    ) -> None:
        """Run it, and note what comes of it."""
        interrupts: dict[str, Interrupt] = {}
        node = ""
        if graph.checkpointer:
            more = more | {"durability": "exit"}

        async def read() -> None:
            nonlocal node
            async for mode, event in graph.astream(given, config, stream_mode=["updates", "values"], **more):
                if mode == "values":
                    played.values = event
                    continue
                interrupts.update({one.id: one for one in event.get("__interrupt__", ())})
                node = next((name for name in reversed(event) if not name.startswith("__")), node)

        try:
            await within(self.timeout, read())
        except PASS_THROUGH:
            raise
        except BaseException as error:
            after = f", after node {node!r}" if node else ""
            if isinstance(error, GraphRecursionError):
                error = RolloutError(f"it did not end within {config['recursion_limit']} steps")
            elif not isinstance(error, Late):
                after = _node(error)
            raise self._error(error, after, turn) from error
        played.interrupts = list(interrupts.values())

    def _error(self, error: BaseException, where: str, turn: Turn) -> AppError:
        reason = f"no reply within {self.timeout:g} s" if isinstance(error, Late) else reason_of(error)
        return AppError(f"app {self.name!r}{where}: {turn.problem or reason}")


_SWALLOWED = (
    "the interrupt with which a tool is simulated was caught by the app itself, by an `except Exception` around the "
    "tool or around is_simulating(): let langgraph.errors.GraphBubbleUp pass there"
)


def _at(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id}}


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

    async def play(
        self, branch: Mapping[str, Any], given: Any, config: RunnableConfig, context: Any, turn: Turn, calls: Calls
    ) -> Played:
        more: dict[str, Any] = {} if context is None else {"context": context}
        try:
            with own_root() as around:
                return await within(self.timeout, self._run(branch, given, merge_configs(around, config), more))
        except Late as error:
            raise AppError(f"app {self.name!r}: no reply within {self.timeout:g} s") from error
        except Exception as error:
            raise AppError(f"app {self.name!r}: {reason_of(error)}") from error

    async def values(self, branch: Mapping[str, Any]) -> Any:
        return (await self.client.threads.get_state(branch["remote"]))["values"] if "remote" in branch else {}

    async def check_unchanged(self, branch: Mapping[str, Any]) -> None:
        """What a deployment plays is on copies of its threads."""

    async def settle(self, branch: Mapping[str, Any]) -> dict[str, Any]:
        return dict(branch)

    async def _run(self, branch: Mapping[str, Any], given: Any, config: RunnableConfig, more: dict[str, Any]) -> Played:
        before = await self.values(branch)
        if "remote" in branch:
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
            raise ConfigError(f"app {self.name!r} has no thread {thread_id!r}: {reason_of(error)}") from error
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
    if isinstance(error, Exited):
        path = [part.partition(":")[0] for part in reversed(error.place.split("|")) if part]
    return f", node {' in '.join(repr(name) for name in path)}" if path else ""
