"""Drive an app in this process: a Runnable or a compiled graph."""

import re
from contextlib import suppress
from dataclasses import replace
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.errors import GraphRecursionError
from langgraph.pregel import Pregel
from langgraph.types import Interrupt

from collab_agents._internal.containment import PASS_THROUGH, Late, contained, within
from collab_agents._internal.copies import branch_copy
from collab_agents._internal.reasons import reason_of
from collab_agents._internal.seeds import Calls
from collab_agents._internal.tracing import with_handlers
from collab_agents.assistants.apps.branches import Branch, Kept, LiveApp
from collab_agents.assistants.apps.driver import AppError, AppResult, own_root
from collab_agents.assistants.apps.simulated_tools import AppTurn, Mode, ToolGuard, is_pause
from collab_agents.assistants.apps.threads import Captured
from collab_agents.errors import ConfigError, Exited, RolloutError


class LocalDriver:
    """Drives an app in this process. An app with a checkpointer, or one that may be resumed, gets a thread."""

    def __init__(self, app: Runnable[Any, Any], name: str, *, timeout: float | None, interruptible: bool) -> None:
        self.name = name
        self.app = app
        self.timeout = timeout
        self.interruptible = interruptible
        self.live = LiveApp(app, name) if isinstance(app, Pregel) else None

    async def drive(
        self, branch: Kept, given: object, config: RunnableConfig, context: object, turn: AppTurn, calls: Calls
    ) -> AppResult:
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

    async def values(self, branch: Kept) -> object:
        if self.live is None:
            return {}
        with own_root():
            return await Branch(self.live, branch, keeps_thread=False).values()

    async def fork(self, thread: RunnableConfig) -> tuple[object, list[Interrupt], Kept]:
        if self.live is None:
            raise ConfigError(f"app {self.name!r} has no checkpointer, and so no thread to fork")
        return await self.live.fork(thread)

    async def check_unchanged(self, branch: Kept) -> None:
        if self.live:
            await self.live.check_unchanged(branch)

    async def commit(self, branch: Kept) -> Kept:
        if self.live is None:
            raise ConfigError(f"app {self.name!r}: only what began with fork can be committed")
        return await self.live.commit(branch)

    async def settle(self, branch: Kept) -> Kept:
        return await self.live.settle(branch) if self.live else branch

    async def _called(self, given: object, config: RunnableConfig, turn: AppTurn, calls: Calls) -> AppResult:
        try:
            values = await within(self.timeout, self.app.ainvoke(given, config))
        except PASS_THROUGH:
            raise
        except BaseException as error:
            if not turn.paused:
                raise self._error(error, "", turn) from error
        if turn.paused:
            # Without a thread there is nothing to resume: the app is called again, now and to execute the turn.
            turn.mode, turn.paused = Mode.simulated, False
            calls.forget(lambda place: True)
            return replace(await self._called(given, config, turn, calls), kept={})
        if turn.problem:
            raise self._error(RolloutError(turn.problem), "", turn)
        return AppResult({}, values)

    async def _run(
        self, branch: Branch, given: object, config: RunnableConfig, context: object, turn: AppTurn, calls: Calls
    ) -> AppResult:
        config = merge_configs(config, {"configurable": branch.configurable})
        more: dict[str, Any] = {} if context is None else {"context": context}
        if branch.saver:
            more["durability"] = "exit"
        result = AppResult(await branch.values(), None)

        def keep(captured: Captured) -> None:
            """Keep the branch as it is now, before anything is simulated, to execute the turn from."""
            calls.forget(captured.runs_again)
            branch.forget(captured)
            result.kept = {**branch.keep(captured), "calls": calls.dump()}
            turn.mode = Mode.simulated

        with branch.isolated(over=turn.mode is Mode.executed):
            await self._stream(branch, given, config, more, result, turn)
            if turn.paused:
                keep(self._captured(branch))
                # The turn continues with simulated results from where it paused.
                turn.paused = False
                await self._stream(branch, None, config, more, result, turn)
        captured = None
        if branch.saver and (branch.saver.like or result.interrupts):
            state = await branch.state()
            if state.next and not result.interrupts:
                before_node = f"it stopped before node {state.next[0]!r}"
                raise AppError(f"app {self.name!r}: {before_node}, by interrupt_before or interrupt_after")
            result.values = state.values
            captured = self._captured(branch)
        result.branch = branch.keep(captured, was_simulated=turn.was_simulated)
        if turn.mode is Mode.executed:
            result.kept = result.branch if captured else self._left(branch)
        if captured and result.interrupts and turn.mode is Mode.pausing:
            keep(captured)  # Executing the turn begins before the interrupts are answered.
        return result

    def _captured(self, branch: Branch) -> Captured:
        try:
            return branch.capture()
        except (TypeError, ValueError) as error:
            what = "its state cannot be serialized, so what is simulated could not be executed later"
            raise AppError(f"app {self.name!r}: {what}: {reason_of(error)}") from error

    def _left(self, branch: Branch) -> Kept | None:
        """Return the branch from which a failed execution can continue, or None if it cannot be serialized."""
        with suppress(TypeError, ValueError):
            return branch.keep(branch.capture()) if branch.saver else None
        return None

    async def _stream(
        self,
        branch: Branch,
        given: object,
        config: RunnableConfig,
        more: dict[str, Any],
        result: AppResult,
        turn: AppTurn,
    ) -> None:
        """Run the graph and record its values and interrupts in `result`."""
        interrupts: dict[str, Interrupt] = {}
        node = ""

        async def read() -> None:
            nonlocal node
            async for mode, event in branch.graph.astream(given, config, stream_mode=["updates", "values"], **more):
                if mode == "values":
                    result.values = event
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
        result.interrupts = [one for one in interrupts.values() if not is_pause(one)]

    def _error(self, error: BaseException, where: str, turn: AppTurn) -> AppError:
        late = isinstance(error, Late) and self.timeout is not None
        reason = f"no reply within {self.timeout:g} s" if late else reason_of(error)
        return AppError(f"app {self.name!r}{where}: {turn.problem or reason}")


_SWALLOWED = (
    "the interrupt with which a tool is simulated did not reach the app's graph. Either an `except Exception` around "
    "the tool, or around is_simulating(), caught it and has to re-raise langgraph.errors.GraphBubbleUp; or the tool "
    "belongs to an agent that is called with a thread of its own"
)


def _node(error: BaseException) -> str:
    """Return where an error was raised, from the tasks that LangGraph notes on it, innermost first."""
    tasks = (re.match(r"During task with name '(.*)' and id", note) for note in getattr(error, "__notes__", ()))
    path = [task.group(1) for task in tasks if task]
    if isinstance(error, Exited):
        path = [part.partition(":")[0] for part in reversed(error.place.split("|")) if part]
    return f", node {' in '.join(repr(name) for name in path)}" if path else ""
