"""One turn of an app, played apart from everything else: a local Runnable or graph, or a deployment."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs, var_child_runnable_config
from langgraph.errors import GraphRecursionError
from langgraph.pregel import Pregel
from langgraph.pregel.remote import RemoteGraph
from langgraph.runtime import get_runtime
from langgraph.types import Interrupt

from collab_agents._internal.containment import PASS_THROUGH, Late, contained, within
from collab_agents.assistants.branches import Branch, Kept, LiveApp
from collab_agents.assistants.simulation import Mode, ToolGuard, Turn, is_pause
from collab_agents.assistants.threads import Captured
from collab_agents.errors import ConfigError, Exited, RolloutError, reason_of
from collab_agents.memory import Memory, branch_copy
from collab_agents.seeds import Calls
from collab_agents.settings import Settings
from collab_agents.tracing import with_handlers
from collab_agents.usage import counting_all_models

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
    interrupts: what it waits for. branch: what has to be remembered of its thread, as JSON values.
    kept: what an execution goes on from. After a simulated turn, the branch as it was before anything was simulated or
    an interrupt was answered, if that happened. After an executed turn, the branch with its thread as it is.
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

    async def fork(self, thread: RunnableConfig) -> tuple[Any, list[Interrupt], Kept]:
        """The values of a live thread, what it waits for, and a branch that begins there."""
        ...

    async def check_unchanged(self, branch: Mapping[str, Any]) -> None:
        """Raises RolloutError if the branch began with a fork of a thread that has gone on since."""
        ...

    async def commit(self, branch: Mapping[str, Any]) -> Kept:
        """Put what the branch has come to into the live thread, store and caches. Returns the branch, to go on with."""
        ...

    async def settle(self, branch: Mapping[str, Any]) -> Kept:
        """Put what the branch has written into the live store and caches. Returns the branch, to go on with."""
        ...


class LocalPlayer:
    """An app in this process. One with a checkpointer, or that may have to be resumed, gets a thread."""

    def __init__(self, app: Runnable[Any, Any], name: str, *, timeout: float | None, interruptible: bool) -> None:
        self.name = name
        self.app = app
        self.timeout = timeout
        self.interruptible = interruptible
        self.live = LiveApp(app, name) if isinstance(app, Pregel) else None

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
                if self.live is None:
                    return await self._called(given, config, turn, calls)
                keeps_thread = self.interruptible or turn.mode is not Mode.simulated
                return await self._run(
                    Branch(self.live, branch, keeps_thread=keeps_thread), given, config, context, turn, calls
                )
            finally:
                turn.running = False

    async def values(self, branch: Mapping[str, Any]) -> Any:
        if self.live is None:
            return {}
        with own_root():
            return await Branch(self.live, branch, keeps_thread=False).values()

    async def fork(self, thread: RunnableConfig) -> tuple[Any, list[Interrupt], Kept]:
        if self.live is None:
            raise ConfigError(f"app {self.name!r} has no checkpointer, and so no thread to fork")
        return await self.live.fork(thread)

    async def check_unchanged(self, branch: Mapping[str, Any]) -> None:
        if self.live:
            await self.live.check_unchanged(branch)

    async def commit(self, branch: Mapping[str, Any]) -> Kept:
        if self.live is None:
            raise ConfigError(f"app {self.name!r}: only what began with fork can be committed")
        return await self.live.commit(branch)

    async def settle(self, branch: Mapping[str, Any]) -> Kept:
        return await self.live.settle(branch) if self.live else branch

    async def _called(self, given: Any, config: RunnableConfig, turn: Turn, calls: Calls) -> Played:
        try:
            values = await within(self.timeout, self.app.ainvoke(given, config))
        except PASS_THROUGH:
            raise
        except BaseException as error:
            if not turn.paused:
                raise self._error(error, "", turn) from error
        if turn.paused:
            # There is no thread to go on with: it is called again, and to execute the turn once more.
            turn.mode, turn.paused = Mode.simulated, False
            calls.forget(lambda place: True)
            return replace(await self._called(given, config, turn, calls), kept={})
        if turn.problem:
            raise self._error(RolloutError(turn.problem), "", turn)
        return Played({}, values)

    async def _run(
        self, branch: Branch, given: Any, config: RunnableConfig, context: Any, turn: Turn, calls: Calls
    ) -> Played:
        config = merge_configs(config, {"configurable": branch.configurable})
        more: dict[str, Any] = {} if context is None else {"context": context}
        if branch.saver:
            more["durability"] = "exit"
        played = Played(await branch.values(), None)

        def keep(captured: Captured) -> None:
            """What executing the turn begins from is the branch as it is now, before anything is simulated."""
            calls.forget(captured.runs_again)
            branch.forget(captured)
            played.kept = branch.keep(captured) | {"calls": calls.dump()}
            turn.mode = Mode.simulated

        with branch.isolated(over=turn.mode is Mode.executed):
            await self._stream(branch, given, config, more, played, turn)
            if turn.paused:
                keep(self._captured(branch))
                # The turn goes on, with simulated results, from where it paused.
                turn.paused = False
                await self._stream(branch, None, config, more, played, turn)
        captured = None
        if branch.saver and (branch.saver.like or played.interrupts):
            state = await branch.state()
            if state.next and not played.interrupts:
                before_node = f"it stopped before node {state.next[0]!r}"
                raise AppError(f"app {self.name!r}: {before_node}, by interrupt_before or interrupt_after")
            played.values = state.values
            captured = self._captured(branch)
        played.branch = branch.keep(captured, pretended=turn.pretended)
        if turn.mode is Mode.executed:
            played.kept = played.branch if captured else self._left(branch)
        if captured and played.interrupts and turn.mode is Mode.pausing:
            keep(captured)  # Whatever answers the interrupts, executing the turn begins before they are answered.
        return played

    def _captured(self, branch: Branch) -> Captured:
        try:
            return branch.capture()
        except (TypeError, ValueError) as error:
            what = "its state cannot be serialized, so what is simulated could not be executed later"
            raise AppError(f"app {self.name!r}: {what}: {reason_of(error)}") from error

    def _left(self, branch: Branch) -> dict[str, Any] | None:
        """With what an execution that stops here can go on, None if its state cannot be serialized."""
        with suppress(TypeError, ValueError):
            return branch.keep(branch.capture()) if branch.saver else None
        return None

    async def _stream(
        self,
        branch: Branch,
        given: Any,
        config: RunnableConfig,
        more: dict[str, Any],
        played: Played,
        turn: Turn,
    ) -> None:
        """Run it, and note what comes of it."""
        interrupts: dict[str, Interrupt] = {}
        node = ""

        async def read() -> None:
            nonlocal node
            async for mode, event in branch.graph.astream(given, config, stream_mode=["updates", "values"], **more):
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
            where = f", after node {node!r}" if node else ""
            if isinstance(error, GraphRecursionError):
                error = RolloutError(f"it did not end within {config['recursion_limit']} steps")
            elif not isinstance(error, Late):
                where = _node(error)
            failed = self._error(error, where, turn)
            if turn.mode is Mode.executed:
                failed.branch = self._left(branch)
            raise failed from error
        if turn.problem or (turn.paused and not any(map(is_pause, interrupts.values()))):
            raise self._error(RolloutError(turn.problem or _SWALLOWED), "", turn)
        played.interrupts = [one for one in interrupts.values() if not is_pause(one)]

    def _error(self, error: BaseException, where: str, turn: Turn) -> AppError:
        late = isinstance(error, Late) and self.timeout is not None
        reason = f"no reply within {self.timeout:g} s" if late else reason_of(error)
        return AppError(f"app {self.name!r}{where}: {turn.problem or reason}")


_SWALLOWED = (
    "the interrupt with which a tool is simulated did not reach the app's graph. Either an `except Exception` around "
    "the tool, or around is_simulating(), caught it and has to re-raise langgraph.errors.GraphBubbleUp; or the tool "
    "belongs to an agent that is called with a thread of its own"
)


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

    async def settle(self, branch: Mapping[str, Any]) -> Kept:
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

    async def fork(self, thread: RunnableConfig) -> tuple[Any, list[Interrupt], Kept]:
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

    async def commit(self, branch: Mapping[str, Any]) -> Kept:
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
