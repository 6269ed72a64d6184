"""Finding the graphs inside an app, those included that a node or a tool calls in its own code."""

from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from langchain_core.runnables import Runnable, RunnableBinding, RunnableLambda, RunnableSequence
from langgraph.prebuilt import ToolNode
from langgraph.pregel import Pregel

App = Pregel[Any, Any, Any, Any]

_DEPTH = 5


def graphs_in(app: App) -> list[App]:
    """The app and every graph that it is seen to hold: as a node, and in the closures and globals of its functions."""
    found: dict[int, App] = {}
    waiting = [app]
    while waiting:
        graph = waiting.pop()
        if id(graph) in found:
            continue
        found[id(graph)] = graph
        for node in graph.nodes.values():
            waiting += [one for one in node.subgraphs or () if isinstance(one, Pregel)]
            waiting += _held(node.bound, _DEPTH)
    return list(found.values())


def tool_nodes(app: App) -> Iterator[ToolNode]:
    """Every `ToolNode` of these graphs."""
    for graph in graphs_in(app):
        for node in graph.nodes.values():
            if isinstance(node.bound, ToolNode):
                yield node.bound


def _held(value: Any, depth: int) -> Iterator[App]:
    if isinstance(value, Pregel):
        yield value
    elif depth:
        for part in _parts(value):
            yield from _held(part, depth - 1)


def _parts(value: Any) -> list[Any]:
    match value:
        case FunctionType():
            known = (value.__globals__.get(name) for name in value.__code__.co_names)
            return [*_cells(value), *(one for one in known if isinstance(one, Runnable | FunctionType))]
        case MethodType():
            return [value.__self__, value.__func__]
        case partial():
            return [value.func, *value.args, *value.keywords.values()]
        case ToolNode():
            tools = value.tools_by_name.values()
            return [getattr(tool, name, None) for tool in tools for name in ("func", "coroutine")]
        case RunnableBinding():
            return [value.bound]
        case RunnableSequence():
            return value.steps
        case Mapping():
            return list(value.values())
        case list() | tuple():
            return list(value)
        case RunnableLambda():
            return [getattr(value, name, None) for name in ("func", "afunc")]
    functions = [vars(value).get(name) for name in ("func", "afunc")] if isinstance(value, Runnable) else []
    return [one for one in functions if one is not None]


def _cells(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # Not filled yet.
            continue
