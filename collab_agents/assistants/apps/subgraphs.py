"""Find the graphs inside an app, including those that a node or a tool calls in its own code."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from types import FunctionType, MethodType
from typing import Any

from langchain_core.runnables import Runnable, RunnableBinding, RunnableLambda, RunnableSequence
from langgraph.prebuilt import ToolNode
from langgraph.pregel import Pregel

App = Pregel[Any, Any, Any, Any]

_DEPTH = 5
_MOST = 100
"""Items of a container that are searched. Larger containers hold data, not agents."""


def graphs_in(app: App) -> list[App]:
    """Return the app and every graph found in its nodes and in the closures and globals of its functions."""
    return [one for one in _parts_of(app) if isinstance(one, Pregel)]


def tool_nodes(app: App) -> list[ToolNode]:
    """Return every `ToolNode` found in the app."""
    return [one for one in _parts_of(app) if isinstance(one, ToolNode)]


def _parts_of(app: App) -> list[App | ToolNode]:
    found: dict[int, App | ToolNode] = {}
    waiting: list[App | ToolNode] = [app]
    while waiting:
        one = waiting.pop()
        if id(one) in found:
            continue
        found[id(one)] = one
        if isinstance(one, ToolNode):
            waiting += _held(_parts(one), _DEPTH)
            continue
        for node in one.nodes.values():
            waiting += _held([*(node.subgraphs or ()), node.bound], _DEPTH)
    return list(found.values())


def _held(value: object, depth: int) -> Iterator[App | ToolNode]:
    if isinstance(value, Pregel | ToolNode):
        yield value
    elif depth:
        for part in _parts(value):
            yield from _held(part, depth - 1)


def _parts(value: object) -> Sequence[object]:
    match value:
        case FunctionType():
            known = (value.__globals__.get(name) for name in value.__code__.co_names)
            return [*_cells(value), *(one for one in known if isinstance(one, Runnable | FunctionType))]
        case MethodType():
            own = getattr(value.__self__, "__dict__", {})
            return [value.__self__, value.__func__, *(one for one in own.values() if isinstance(one, Runnable))]
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
            return list(islice(value.values(), _MOST))
        case list() | tuple():
            return list(value[:_MOST])
        case RunnableLambda():
            return [getattr(value, name, None) for name in ("func", "afunc")]
    functions = [vars(value).get(name) for name in ("func", "afunc")] if isinstance(value, Runnable) else []
    return [one for one in functions if one is not None]


def _cells(function: FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # Not filled yet.
            continue
