"""Tools in a simulation: which have side effects, and what stands in for them while futures are played."""

import copy
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langgraph.prebuilt.tool_node import ToolCallRequest, ToolNode
from langgraph.pregel import Pregel

from collab_agents.errors import ConfigError, nearest

App = Pregel[Any, Any, Any, Any]

_MARK = "collab_agents.simulate"
SIMULATED = "simulated"
"""The key in a tool message's `additional_kwargs` that says that the tool was not run."""

_simulating: ContextVar[bool] = ContextVar("collab_agents_simulating", default=False)


def is_simulating() -> bool:
    """Whether this code runs in a simulated conversation. For tools and nodes that decide for themselves what not to

    do then.
    """
    return _simulating.get()


@contextmanager
def simulating(yes: bool) -> Iterator[None]:
    token = _simulating.set(yes)
    try:
        yield
    finally:
        _simulating.reset(token)


def simulate(instead: Any) -> Callable[[BaseTool], BaseTool]:
    """Marks a tool that has side effects, above `@tool`: in a simulated conversation a `ToolNode` does not run it.

    instead: what the tool then gives: a function of the tool's arguments (async or not), or a value.
    """

    def mark(tool: BaseTool) -> BaseTool:
        if not isinstance(tool, BaseTool):
            raise ConfigError(f"simulate marks a LangChain tool, so it stands above @tool, and got {tool!r}")
        return tool.model_copy(update={"metadata": {**(tool.metadata or {}), _MARK: instead}})

    return mark


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
    """The node, with a wrapper around its own wrapper (langgraph-prebuilt's public way to stand in for a tool)."""
    before, before_async = node._wrap_tool_call, node._awrap_tool_call

    def call(request: ToolCallRequest, execute: Callable[[ToolCallRequest], Any]) -> Any:
        if request.tool_call["name"] not in instead or not is_simulating():
            return before(request, execute) if before else execute(request)
        value = _value(instead[request.tool_call["name"]], request)
        if inspect.isawaitable(value):
            raise ConfigError(
                f"simulate_tools: {request.tool_call['name']} is async, and the app's tool wrapper is not"
            )
        return _message(request, value)

    async def acall(request: ToolCallRequest, execute: Callable[[ToolCallRequest], Any]) -> Any:
        if request.tool_call["name"] not in instead or not is_simulating():
            return await (before_async(request, execute) if before_async else execute(request))
        value = _value(instead[request.tool_call["name"]], request)
        return _message(request, await value if inspect.isawaitable(value) else value)

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


def _value(instead: Any, request: ToolCallRequest) -> Any:
    return instead(**copy.deepcopy(request.tool_call["args"])) if callable(instead) else instead


def _message(request: ToolCallRequest, value: Any) -> ToolMessage:
    call = request.tool_call
    if not isinstance(value, str):
        value = value.content if isinstance(value, ToolMessage) else json.dumps(value, ensure_ascii=False, default=str)
    return ToolMessage(value, name=call["name"], tool_call_id=call["id"], additional_kwargs={SIMULATED: True})
