"""Tools in a simulation: which have side effects, and what stands in for them while futures are played."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any

from langchain_core.messages import ToolMessage
from langchain_core.runnables.config import run_in_executor
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.prebuilt.tool_node import ToolCallRequest, ToolNode
from langgraph.pregel import Pregel

from collab_agents.errors import ConfigError, nearest
from collab_agents.memory import own_copy

App = Pregel[Any, Any, Any, Any]

_MARK = "collab_agents.simulate"
SIMULATED = "simulated"
"""The key in a tool message's `additional_kwargs` that says that the tool was not run."""

_simulating: ContextVar[bool] = ContextVar("collab_agents_simulating", default=False)
_out_of_reach: ContextVar[set[str] | None] = ContextVar("collab_agents_out_of_reach", default=None)


def is_simulating() -> bool:
    """Whether this code runs in a simulated conversation. For tools and nodes that decide for themselves what not to

    do then.
    """
    return _simulating.get()


@contextmanager
def simulating(yes: bool) -> Iterator[set[str]]:
    """Gives the names of the marked tools that were stood in for where no `ToolNode` of the app is found."""
    names: set[str] = set()
    token, other = _simulating.set(yes), _out_of_reach.set(names)
    try:
        yield names
    finally:
        _simulating.reset(token)
        _out_of_reach.reset(other)


def simulate(instead: Any) -> Callable[[BaseTool], BaseTool]:
    """Marks a tool that has side effects, above `@tool`: in a simulated conversation it is not run.

    instead: what the tool then gives: a function of the tool's arguments (async or not), or a value.
    Raises ConfigError for what is no tool made by `@tool` or of functions.
    """

    def mark(tool: BaseTool) -> BaseTool:
        if not isinstance(tool, StructuredTool):
            raise ConfigError(f"simulate marks a tool made by @tool, so it stands above that, and got {tool!r}")
        function, coroutine = tool.func, tool.coroutine
        original = coroutine or function
        assert original is not None  # A StructuredTool is made of one or both.

        # In a ToolNode of the app's own that stands in itself, and the reply can be performed. This is for elsewhere.
        def run(**arguments: Any) -> Any:
            if not is_simulating():
                assert function is not None
                return function(**arguments)
            value = _value(instead, _given(tool, arguments))
            if inspect.isawaitable(value):
                raise ConfigError(f"simulate: what stands in for {tool.name!r} is async, and the tool is called sync")
            return _stood_in_for(tool.name, value)

        async def arun(**arguments: Any) -> Any:
            if not is_simulating():
                if coroutine:
                    return await coroutine(**arguments)
                assert function is not None
                return await run_in_executor(None, partial(function, **arguments))
            value = _value(instead, _given(tool, arguments))
            return _stood_in_for(tool.name, await value if inspect.isawaitable(value) else value)

        changed = {"func": function and wraps(function)(run), "coroutine": wraps(original)(arun)}
        return tool.model_copy(update={**changed, "metadata": {**(tool.metadata or {}), _MARK: instead}})

    return mark


def _given(tool: StructuredTool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a model gives, without those that are injected."""
    return {name: value for name, value in arguments.items() if name in tool.args}


def _stood_in_for(name: str, value: Any) -> Any:
    names = _out_of_reach.get()
    if names is not None:
        names.add(name)
    return value


def tool_nodes(app: App) -> Iterator[tuple[App, ToolNode]]:
    """Every `ToolNode` of the app and its subgraphs, with the graph it is in."""
    for node in app.nodes.values():
        if isinstance(node.bound, ToolNode):
            yield app, node.bound
        elif isinstance(node.bound, Pregel):
            yield from tool_nodes(node.bound)


def with_simulated_tools(app: App, name: str, tools: Mapping[str, Any]) -> App:
    """The app with tools that, in a simulation, are stood in for: those named, and those marked by `simulate`.

    Raises ConfigError for a name that no `ToolNode` of the app has.
    """
    known = {tool for _, node in tool_nodes(app) for tool in node.tools_by_name}
    for tool in tools:
        if tool not in known:
            there = f"its tools are {', '.join(sorted(known))}" if known else "it has no ToolNode"
            raise ConfigError(f"simulate_tools: the app {name!r} has no tool {tool!r}: {there}{nearest(tool, known)}")
    return _replaced(app, tools)


def _replaced(app: App, tools: Mapping[str, Any]) -> App:
    nodes = {}
    for key, node in app.nodes.items():
        if isinstance(node.bound, ToolNode):
            marked = {tool.name: (tool.metadata or {}) for tool in node.bound.tools_by_name.values()}
            instead = {one: metadata[_MARK] for one, metadata in marked.items() if _MARK in metadata}
            instead |= {one: tools[one] for one in marked if one in tools}
            if instead:
                node = node.copy({"bound": _simulated(node.bound, instead)})
        elif isinstance(node.bound, Pregel):
            inner = _replaced(node.bound, tools)
            if inner is not node.bound:
                node = node.copy({"bound": inner, "subgraphs": [inner]})
        nodes[key] = node
    changed = any(node is not app.nodes[key] for key, node in nodes.items())
    return app.copy({"nodes": nodes}) if changed else app


def _simulated(node: ToolNode, instead: Mapping[str, Any]) -> ToolNode:
    """The node, with a wrapper (langgraph-prebuilt's public way to stand in for a tool) inside the app's own."""
    before, before_async = node._wrap_tool_call, node._awrap_tool_call

    def stands_in(request: ToolCallRequest) -> bool:
        return request.tool_call["name"] in instead and is_simulating()

    def call(request: ToolCallRequest, execute: Callable[[ToolCallRequest], Any]) -> Any:
        used = []

        def stand_in(request: ToolCallRequest) -> Any:
            if not stands_in(request):
                return execute(request)
            used.append(True)
            name = request.tool_call["name"]
            value = _value(instead[name], request.tool_call["args"])
            if inspect.isawaitable(value):
                raise ConfigError(f"simulate_tools: {name!r} is async, and the app's tool wrapper is not")
            return _message(request, value)

        return _marked(before(request, stand_in) if before else stand_in(request), used)

    async def acall(request: ToolCallRequest, execute: Callable[[ToolCallRequest], Any]) -> Any:
        used = []

        async def stand_in(request: ToolCallRequest) -> Any:
            if not stands_in(request):
                return await execute(request)
            used.append(True)
            value = _value(instead[request.tool_call["name"]], request.tool_call["args"])
            return _message(request, await value if inspect.isawaitable(value) else value)

        return _marked(await (before_async(request, stand_in) if before_async else stand_in(request)), used)

    return ToolNode(
        list(node.tools_by_name.values()),
        name=node.name or "tools",
        tags=list(node.tags or ()),
        handle_tool_errors=node._handle_tool_errors,
        messages_key=node._messages_key,
        wrap_tool_call=call,
        # Where the app has a sync wrapper alone, ToolNode runs it for async calls as well.
        awrap_tool_call=acall if before_async or not before else None,
    )


def _value(instead: Any, arguments: Mapping[str, Any]) -> Any:
    return instead(**own_copy(dict(arguments))) if callable(instead) else instead


def _message(request: ToolCallRequest, value: Any) -> ToolMessage:
    call = request.tool_call
    if not isinstance(value, str):
        value = value.content if isinstance(value, ToolMessage) else json.dumps(value, ensure_ascii=False, default=str)
    return ToolMessage(value, name=call["name"], tool_call_id=call["id"])


def _marked(result: Any, used: list[bool]) -> Any:
    if used and isinstance(result, ToolMessage):
        return result.model_copy(update={"additional_kwargs": {**result.additional_kwargs, SIMULATED: True}})
    return result
