"""Simulate an app's tools during a simulated turn, so that the turn can be executed afterwards.

A simulated tool is an interrupt. The first time a simulated turn calls one (or calls `is_simulating`), its graph is
paused and a copy of its thread is kept. Only then does the turn continue with simulated results. To execute the turn,
the kept thread is resumed with nothing simulated: the tool runs inside the app, where and when it would in a plain
run, and the app continues with the real result.
"""

import inspect
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial, wraps

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import ToolMessage
from langchain_core.runnables.config import run_in_executor
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.errors import GraphInterrupt
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Interrupt
from pydantic import BaseModel, ValidationError

from collab_agents._internal.copies import own_copy
from collab_agents._internal.langgraph_private import Interceptor, ToolResult, intercept, pause_task
from collab_agents._internal.place import task_around
from collab_agents._internal.reasons import nearest
from collab_agents.assistants.apps.subgraphs import App, tool_nodes
from collab_agents.errors import ConfigError, RolloutError

SIMULATED = "simulated"
"""The key in a tool message's `additional_kwargs` that marks a result as simulated."""

_MARK = "collab_agents.simulate_as"
_PAUSE = "collab_agents.pause"


class Mode(Enum):
    pausing = auto()
    """Simulated, and the graph pauses at the first thing that would be simulated."""
    simulated = auto()
    executed = auto()


@dataclass
class AppTurn:
    """A turn of an app in progress.

    Attributes:
        mode: Whether the turn is simulated or executed.
        tools: Tools to simulate, by name, each with its simulated result.
        simulated_calls: The calls of simulated tools so far, as name and JSON arguments.
        allowed: The calls that an executed turn may make before the first real result; None allows all.
        paused: Whether the graph was interrupted at the first simulated call.
        was_simulated: Whether anything in the turn was simulated.
        running: Whether the app is running now.
        problem: Why the turn cannot be simulated or executed faithfully; empty if it can.
    """

    mode: Mode
    tools: Mapping[str, object] = field(default_factory=dict)
    simulated_calls: list[list[str]] = field(default_factory=list)
    allowed: list[list[str]] | None = None
    paused: bool = False
    was_simulated: bool = False
    running: bool = False
    problem: str = ""

    def pause(self, what: str) -> None:
        """Interrupt the app where it is about to do something that would be simulated."""
        self.paused = True
        value = {_PAUSE: what}
        if task_around():
            pause_task(value)
        raise GraphInterrupt((Interrupt(value=value, id=_PAUSE),))

    def begin(self, name: str, arguments: Mapping[str, object]) -> None:
        """Record that a simulated tool is about to be called with the arguments that the model gave.

        Raises RolloutError for a call that was not made in the simulation in which the reply was chosen.
        """
        if self.mode is Mode.pausing:
            self.pause(name)
        call = _call(name, arguments)
        if self.mode is Mode.simulated:
            self.was_simulated = True
            self.simulated_calls.append(call)
            return
        if not self.problem and self.allowed is not None and call not in self.allowed:
            before = " and ".join(dict.fromkeys(f"{one}({given})" for one, given in self.allowed)) or "no tool"
            self.problem = (
                f"it would now call {name}({call[1]}), but in the simulation it called {before}: a node that calls "
                "both its model and a tool calls the model again when it is executed; put the two in separate nodes"
            )
        if self.problem:
            raise RolloutError(self.problem)

    def came_back(self) -> None:
        """Note that a real result has come back, so that the turn may now differ from its simulation."""
        self.allowed = None


def _call(name: str, arguments: Mapping[str, object]) -> list[str]:
    return [name, json.dumps(arguments, sort_keys=True, ensure_ascii=False, default=repr)]


_turn: ContextVar[AppTurn | None] = ContextVar("collab_agents_turn", default=None)
_intercepted: ContextVar[bool] = ContextVar("collab_agents_intercepted", default=False)


@contextmanager
def taking(turn: AppTurn) -> Iterator[AppTurn]:
    """Make everything inside part of the turn."""
    token = _turn.set(turn)
    try:
        yield turn
    finally:
        _turn.reset(token)


def is_simulating() -> bool:
    """Return whether this code runs in a simulated conversation.

    For tools and nodes that decide for themselves what to skip in a simulation. In an app whose reply may be executed,
    the first call pauses the app at that node or tool (see the module). Executing the reply runs that node or tool
    again from its start, and the call then returns False.

    Returns:
        True in a simulated conversation; False in an executed turn and outside of a conversation.

    Example:
        def notify(state: State) -> State:
            if not is_simulating():
                send_email(state["order"])
            return state
    """
    turn = _turn.get()
    if turn is None or turn.mode is Mode.executed:
        if turn and turn.running:
            turn.came_back()
        return False
    if turn.running and turn.mode is Mode.pausing:
        turn.pause("is_simulating")
    turn.was_simulated = turn.was_simulated or turn.running
    return True


def is_pause(interrupt: Interrupt) -> bool:
    return isinstance(interrupt.value, Mapping) and _PAUSE in interrupt.value


def simulate_as(instead: object) -> Callable[[BaseTool], BaseTool]:
    """Mark a tool with side effects, so that it does not run in a simulated conversation.

    Args:
        instead: The simulated result: a value, or a function (sync or async) of the tool's arguments.

    Returns:
        A decorator to place above `@tool`.

    Raises:
        ConfigError: If the decorated object is not a tool made from functions, as by `@tool`.

    Example:
        @simulate_as(lambda order: f"order {order} is refunded")
        @tool
        def refund(order: str) -> str:
            '''Refund an order.'''
            return payments.refund(order)
    """

    def mark(tool: BaseTool) -> BaseTool:
        if not isinstance(tool, StructuredTool):
            raise ConfigError(f"simulate_as marks a tool made by @tool, so place it above @tool: it got {tool!r}")
        function, coroutine = tool.func, tool.coroutine
        original = coroutine or function
        assert original is not None  # A StructuredTool is made of one or both.

        # The app's ToolNodes are intercepted. These functions cover calls from anywhere else.
        def run(**arguments: object) -> object:
            turn, given = None if _intercepted.get() else _turn.get(), _given(tool, arguments)
            if turn:
                turn.begin(tool.name, given)
            if turn and turn.mode is not Mode.executed:
                return _returned(tool, _now(tool.name, _simulated(tool, instead, given)))
            assert function is not None
            with _executing(turn):
                return function(**arguments)

        async def arun(**arguments: object) -> object:
            turn, given = None if _intercepted.get() else _turn.get(), _given(tool, arguments)
            if turn:
                turn.begin(tool.name, given)
            if turn and turn.mode is not Mode.executed:
                value = _simulated(tool, instead, given)
                return _returned(tool, await value if inspect.isawaitable(value) else value)
            with _executing(turn):
                if coroutine:
                    return await coroutine(**arguments)
                assert function is not None
                return await run_in_executor(None, partial(function, **arguments))

        changed = {"func": function and wraps(function)(run), "coroutine": wraps(original)(arun)}
        return tool.model_copy(update={**changed, "metadata": {**(tool.metadata or {}), _MARK: instead}})

    return mark


def _given(tool: StructuredTool, arguments: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments that a model gives, without injected ones."""
    return {name: value for name, value in arguments.items() if name in tool.args}


def _simulated(tool: BaseTool, instead: object, arguments: Mapping[str, object]) -> object:
    """Return the tool's simulated result."""
    if not callable(instead):
        return own_copy(instead)
    defaults = {name: schema["default"] for name, schema in tool.args.items() if "default" in schema}
    return instead(**own_copy({**defaults, **arguments}))


def _returned(tool: BaseTool, value: object) -> object:
    """Return the value in the form in which the tool's own function would."""
    return _with_artifact(value) if _gives_artifact(tool) else value


def _gives_artifact(tool: BaseTool | None) -> bool:
    return getattr(tool, "response_format", "") == "content_and_artifact"


def _with_artifact(value: object) -> tuple[object, object]:
    return value if isinstance(value, tuple) and len(value) == 2 else (value, None)


@contextmanager
def _executing(turn: AppTurn | None) -> Iterator[None]:
    try:
        yield
    finally:
        if turn:
            turn.came_back()


def _now(name: str, value: object) -> object:
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise ConfigError(f"the function that simulates {name!r} is async, but the tool is called synchronously")
    return value


class _Tools(Interceptor):
    """Simulates or runs the tools of a ToolNode, depending on the current turn."""

    def begin(self, node: ToolNode, name: str, arguments: Mapping[str, object]) -> None:
        turn, tool = _turn.get(), node.tools_by_name.get(name)
        if turn and tool and _is_simulated(turn, tool):
            turn.begin(name, arguments)

    def run(self, request: ToolCallRequest, execute: Callable[[ToolCallRequest], ToolResult]) -> ToolResult:
        turn = _turn.get()
        if not turn or not request.tool or not _is_simulated(turn, request.tool):
            return execute(request)
        if turn.mode is not Mode.executed:
            if refused := _refused(request):
                with _inside_node():
                    return execute(refused)
            return _message(request, _now(request.tool.name, self._instead(turn, request)))
        with _executing(turn), _inside_node():
            return execute(request)

    async def arun(
        self, request: ToolCallRequest, execute: Callable[[ToolCallRequest], Awaitable[ToolResult]]
    ) -> ToolResult:
        turn = _turn.get()
        if not turn or not request.tool or not _is_simulated(turn, request.tool):
            return await execute(request)
        if turn.mode is not Mode.executed:
            if refused := _refused(request):
                with _inside_node():
                    return await execute(refused)
            value = self._instead(turn, request)
            return _message(request, await value if inspect.isawaitable(value) else value)
        with _executing(turn), _inside_node():
            return await execute(request)

    def _instead(self, turn: AppTurn, request: ToolCallRequest) -> object:
        tool = request.tool
        assert tool is not None
        if turn.mode is Mode.pausing:  # The app's tool wrapper replaced another tool by this one.
            turn.pause(tool.name)
        turn.was_simulated = True
        instead = turn.tools[tool.name] if tool.name in turn.tools else (tool.metadata or {})[_MARK]
        return _simulated(tool, instead, request.tool_call["args"])


def _is_simulated(turn: AppTurn, tool: BaseTool) -> bool:
    return tool.name in turn.tools or _MARK in (tool.metadata or {})


def _refused(request: ToolCallRequest) -> ToolCallRequest | None:
    """Return the request for a tool that does nothing if the arguments are wrong: its node says so, as for real."""
    tool = request.tool
    schema = getattr(tool, "args_schema", None)
    if not isinstance(tool, StructuredTool) or not isinstance(schema, type) or not issubclass(schema, BaseModel):
        return None
    try:
        schema.model_validate(request.tool_call["args"])
    except ValidationError as error:
        if any(problem["loc"] and problem["loc"][0] in tool.args for problem in error.errors()):  # Others are injected.
            return request.override(tool=tool.model_copy(update={"func": _never, "coroutine": None}))
    return None


def _never(**arguments: object) -> None:
    raise RolloutError("a tool was called in a simulation with arguments that do not fit")


@contextmanager
def _inside_node() -> Iterator[None]:
    token = _intercepted.set(True)
    try:
        yield
    finally:
        _intercepted.reset(token)


def _message(request: ToolCallRequest, value: object) -> ToolMessage:
    call = request.tool_call
    about = {"name": call["name"], "tool_call_id": call["id"]}
    if isinstance(value, ToolMessage):
        marked = {**value.additional_kwargs, SIMULATED: True}
        return value.model_copy(update={**about, "additional_kwargs": marked})
    content, artifact = _with_artifact(value) if _gives_artifact(request.tool) else (value, None)
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=str)
    return ToolMessage(text, artifact=artifact, additional_kwargs={SIMULATED: True}, **about)


class ToolGuard(BaseCallbackHandler):
    """Raises in a simulation if a tool that should be simulated is called where it cannot be intercepted."""

    raise_error = True
    run_inline = True
    ignore_llm = ignore_chat_model = ignore_chain = ignore_retriever = ignore_retry = ignore_custom_event = True

    def on_tool_start(self, serialized: Mapping[str, object], input_str: str, **about: object) -> None:
        turn = None if _intercepted.get() else _turn.get()
        name = (serialized or {}).get("name", "")
        if turn and turn.mode is not Mode.executed and name in turn.tools:
            turn.problem = f"it calls the tool {name!r} where simulate_tools cannot reach it: {WAY_OUT}"
            raise RolloutError(turn.problem)


WAY_OUT = "mark the tool with @simulate_as, or have it ask is_simulating()"


def intercept_tools(app: App, name: str, tools: Mapping[str, object]) -> None:
    """Simulate the app's tools during simulated turns: those named, and those marked by `simulate_as`.

    Outside of a turn nothing changes. Raises ConfigError for a name that no `ToolNode` of the app has.
    """
    nodes = list(tool_nodes(app))
    known = {tool for node in nodes for tool in node.tools_by_name}
    for tool in tools:
        if tool not in known:
            there = f"the tools found are {', '.join(sorted(known))}" if known else "no ToolNode was found"
            hint = nearest(tool, known) or f". If it hides in the app's own code, {WAY_OUT}"
            raise ConfigError(f"simulate_tools: the app {name!r} has no tool {tool!r}: {there}{hint}")
    for node in nodes:
        intercept(node, _INTERCEPTOR)


_INTERCEPTOR = _Tools()
