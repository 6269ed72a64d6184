"""What of an app is simulated while a turn of it is simulated, and how the turn can be executed afterwards.

A simulated tool is an interrupt. The first time that a simulated turn calls one (or asks `is_simulating`), its graph
is paused, and its thread as it is then is kept. Only then does the turn go on with simulated results. To execute the
turn, the kept thread is resumed with nothing simulated: the tool runs inside the app, where and when it would in a
plain run, and the app goes on with what really comes back.
"""

import inspect
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial, wraps
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import ToolMessage
from langchain_core.runnables.config import run_in_executor
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.errors import GraphInterrupt
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Interrupt

from collab_agents._internal.copies import own_copy
from collab_agents._internal.langgraph_private import Interceptor, intercept, pause_task
from collab_agents._internal.place import task_around
from collab_agents._internal.reasons import nearest
from collab_agents.assistants.apps.subgraphs import App, tool_nodes
from collab_agents.errors import ConfigError, RolloutError

SIMULATED = "simulated"
"""The key in a tool message's `additional_kwargs` that says that the tool was not run."""

_MARK = "collab_agents.simulate_as"
_PAUSE = "collab_agents.pause"


class Mode(Enum):
    pausing = auto()
    """Simulated, until the first thing that is to be simulated: there the graph pauses."""
    simulated = auto()
    executed = auto()


@dataclass
class AppTurn:
    """One turn of an app that is under way. tools: simulated, by name, with what each then gives.

    simulated: the calls of simulated tools so far, name and arguments as JSON. allowed: those that an executed turn
    may make before anything real has come back; None allows all. problem: why the turn cannot be what it promises.
    """

    mode: Mode
    tools: Mapping[str, Any] = field(default_factory=dict)
    simulated: list[list[str]] = field(default_factory=list)
    allowed: list[list[str]] | None = None
    paused: bool = False
    pretended: bool = False
    running: bool = False
    problem: str = ""

    def pause(self, what: str) -> None:
        """Interrupt the app where it is about to do something that is simulated."""
        self.paused = True
        value = {_PAUSE: what}
        if task_around():
            pause_task(value)
        raise GraphInterrupt((Interrupt(value=value, id=_PAUSE),))

    def begin(self, name: str, arguments: Any) -> None:
        """A simulated tool is about to be called, with the arguments that the model gave.

        Raises RolloutError for a call that was not made in the simulation on which the reply was chosen.
        """
        if self.mode is Mode.pausing:
            self.pause(name)
        call = _call(name, arguments)
        if self.mode is Mode.simulated:
            self.pretended = True
            self.simulated.append(call)
            return
        if not self.problem and self.allowed is not None and call not in self.allowed:
            before = " and ".join(dict.fromkeys(f"{one}({given})" for one, given in self.allowed)) or "no tool"
            self.problem = (
                f"it would now call {name}({call[1]}), and in the simulation it called {before}: a node that calls "
                "both its model and a tool asks the model again when it is executed; put the two in nodes of their own"
            )
        if self.problem:
            raise RolloutError(self.problem)

    def came_back(self) -> None:
        """From here on the turn may go another way than its simulation."""
        self.allowed = None


def _call(name: str, arguments: Any) -> list[str]:
    return [name, json.dumps(arguments, sort_keys=True, ensure_ascii=False, default=repr)]


_turn: ContextVar[AppTurn | None] = ContextVar("collab_agents_turn", default=None)
_intercepted: ContextVar[bool] = ContextVar("collab_agents_intercepted", default=False)


@contextmanager
def taking(turn: AppTurn) -> Iterator[AppTurn]:
    """Everything inside is part of the turn."""
    token = _turn.set(turn)
    try:
        yield turn
    finally:
        _turn.reset(token)


def is_simulating() -> bool:
    """Whether this code runs in a simulated conversation.

    For tools and nodes that decide for themselves what not to do then.
    In a node or tool of an app whose reply may be executed, the first such question pauses the app there (see the
    module). Executing the reply begins anew with that node or tool, which is then told no.
    """
    turn = _turn.get()
    if turn is None or turn.mode is Mode.executed:
        if turn and turn.running:
            turn.came_back()
        return False
    if turn.running and turn.mode is Mode.pausing:
        turn.pause("is_simulating")
    turn.pretended = turn.pretended or turn.running
    return True


def is_pause(interrupt: Interrupt) -> bool:
    return isinstance(interrupt.value, Mapping) and _PAUSE in interrupt.value


def simulate_as(instead: Any) -> Callable[[BaseTool], BaseTool]:
    """Mark a tool that has side effects, above `@tool`: in a simulated conversation it is not run.

    instead: what the tool then gives: a function of the tool's arguments (async or not), or a value.
    Raises ConfigError for what is no tool made by `@tool` or of functions.
    """

    def mark(tool: BaseTool) -> BaseTool:
        if not isinstance(tool, StructuredTool):
            raise ConfigError(f"simulate_as marks a tool made by @tool, so it stands above that, and got {tool!r}")
        function, coroutine = tool.func, tool.coroutine
        original = coroutine or function
        assert original is not None  # A StructuredTool is made of one or both.

        # A ToolNode of the app's own is intercepted. This is for wherever else the tool is called.
        def run(**arguments: Any) -> Any:
            turn, given = None if _intercepted.get() else _turn.get(), _given(tool, arguments)
            if turn:
                turn.begin(tool.name, given)
            if turn and turn.mode is not Mode.executed:
                return _returned(tool, _now(tool.name, _simulated(tool, instead, given)))
            assert function is not None
            with _executing(turn):
                return function(**arguments)

        async def arun(**arguments: Any) -> Any:
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


def _given(tool: StructuredTool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a model gives, without those that are injected."""
    return {name: value for name, value in arguments.items() if name in tool.args}


def _simulated(tool: BaseTool, instead: Any, arguments: Mapping[str, Any]) -> Any:
    """What the tool gives in a simulation."""
    if not callable(instead):
        return own_copy(instead)
    defaults = {name: schema["default"] for name, schema in tool.args.items() if "default" in schema}
    return instead(**own_copy({**defaults, **arguments}))


def _returned(tool: BaseTool, value: Any) -> Any:
    """As the tool's own function would return it."""
    return _with_artifact(value) if _gives_artifact(tool) else value


def _gives_artifact(tool: BaseTool | None) -> bool:
    return getattr(tool, "response_format", "") == "content_and_artifact"


def _with_artifact(value: Any) -> tuple[Any, Any]:
    return value if isinstance(value, tuple) and len(value) == 2 else (value, None)


@contextmanager
def _executing(turn: AppTurn | None) -> Iterator[None]:
    try:
        yield
    finally:
        if turn:
            turn.came_back()


def _now(name: str, value: Any) -> Any:
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise ConfigError(f"what simulates {name!r} is async, and the tool is called sync")
    return value


class _Tools(Interceptor):
    """Simulates the tools of a ToolNode, or runs them, as the turn around wants it."""

    def begin(self, node: ToolNode, name: str, arguments: Mapping[str, Any]) -> None:
        turn, tool = _turn.get(), node.tools_by_name.get(name)
        if turn and tool and _is_simulated(turn, tool):
            turn.begin(name, arguments)

    def run(self, request: ToolCallRequest, execute: Callable[[], Any]) -> Any:
        turn = _turn.get()
        if not turn or not request.tool or not _is_simulated(turn, request.tool):
            return execute()
        if turn.mode is not Mode.executed:
            return _message(request, _now(request.tool.name, self._instead(turn, request)))
        with _executing(turn), _inside_node():
            return execute()

    async def arun(self, request: ToolCallRequest, execute: Callable[[], Awaitable[Any]]) -> Any:
        turn = _turn.get()
        if not turn or not request.tool or not _is_simulated(turn, request.tool):
            return await execute()
        if turn.mode is not Mode.executed:
            value = self._instead(turn, request)
            return _message(request, await value if inspect.isawaitable(value) else value)
        with _executing(turn), _inside_node():
            return await execute()

    def _instead(self, turn: AppTurn, request: ToolCallRequest) -> Any:
        tool = request.tool
        assert tool is not None
        if turn.mode is Mode.pausing:  # A wrapper of the app's has put this tool in another's place.
            turn.pause(tool.name)
        turn.pretended = True
        instead = turn.tools[tool.name] if tool.name in turn.tools else (tool.metadata or {})[_MARK]
        return _simulated(tool, instead, request.tool_call["args"])


def _is_simulated(turn: AppTurn, tool: BaseTool) -> bool:
    return tool.name in turn.tools or _MARK in (tool.metadata or {})


@contextmanager
def _inside_node() -> Iterator[None]:
    token = _intercepted.set(True)
    try:
        yield
    finally:
        _intercepted.reset(token)


def _message(request: ToolCallRequest, value: Any) -> ToolMessage:
    call = request.tool_call
    about = {"name": call["name"], "tool_call_id": call["id"]}
    if isinstance(value, ToolMessage):
        marked = {**value.additional_kwargs, SIMULATED: True}
        return value.model_copy(update={**about, "additional_kwargs": marked})
    content, artifact = _with_artifact(value) if _gives_artifact(request.tool) else (value, None)
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=str)
    return ToolMessage(text, artifact=artifact, additional_kwargs={SIMULATED: True}, **about)


class ToolGuard(BaseCallbackHandler):
    """Refuses to run, in a simulation, a tool that is to be simulated and hides where it cannot be intercepted."""

    raise_error = True
    run_inline = True
    ignore_llm = ignore_chat_model = ignore_chain = ignore_retriever = ignore_retry = ignore_custom_event = True

    def on_tool_start(self, serialized: dict[str, Any], input_str: str, **about: Any) -> None:
        turn = _turn.get()
        name = (serialized or {}).get("name", "")
        if turn and turn.mode is not Mode.executed and name in turn.tools:
            turn.problem = f"it calls the tool {name!r} where simulate_tools cannot reach it: {WAY_OUT}"
            raise RolloutError(turn.problem)


WAY_OUT = "mark the tool with @simulate_as, or have it ask is_simulating()"


def intercept_tools(app: App, name: str, tools: Mapping[str, Any]) -> None:
    """Have the app's tools be simulated wherever a turn is: those named, and those marked by `simulate_as`.

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
