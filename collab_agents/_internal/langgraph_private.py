"""All private names of LangGraph that this library needs.

Checked with langgraph 1.2 and langgraph-prebuilt 1.1. If one of them changes,
tests/unit/_internal/test_langgraph_private.py fails.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.runnables.config import var_child_runnable_config
from langgraph._internal._constants import (
    CONFIG_KEY_CACHE,
    CONFIG_KEY_CHECKPOINTER,
    CONFIG_KEY_DURABILITY,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_SEND,
    CONFIG_KEY_STREAM,
    INTERRUPT,
    RESUME,
)
from langgraph._internal._serde import build_serde_allowlist
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphInterrupt
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.pregel import Pregel
from langgraph.types import Command, Interrupt

ToolResult = ToolMessage | Command[Any] | list[Command[Any] | ToolMessage]
"""What a ToolNode returns for the call of a tool."""

CACHE = CONFIG_KEY_CACHE
"""The configurable key of the cache that a run and all its graphs use instead of their own."""

DURABILITY = CONFIG_KEY_DURABILITY
"""The configurable key of the durability that a run hands down to the graphs in it."""

INTERRUPTED = INTERRUPT
"""The channel of the write that marks a task as interrupted."""


def can_be_resumed() -> bool:
    """Whether the surrounding graph has a checkpointer, so that `interrupt` waits for an answer instead of failing."""
    return bool(_configurable().get(CONFIG_KEY_CHECKPOINTER))


def is_watched() -> bool:
    """Whether a tracer or a stream sees the steps of a graph that the surrounding node calls."""
    callbacks = (var_child_runnable_config.get() or {}).get("callbacks")
    return bool(getattr(callbacks, "handlers", callbacks)) or CONFIG_KEY_STREAM in _configurable()


def pause_task(value: object) -> None:
    """Interrupt the task in which this runs.

    When its graph continues, the task runs again from its beginning with the answers it already has.
    (`langgraph.types.interrupt` would take one of these answers as its own.)
    """
    configurable = _configurable()
    answers = configurable[CONFIG_KEY_SCRATCHPAD].resume
    if answers:
        configurable[CONFIG_KEY_SEND]([(RESUME, answers)])
    raise GraphInterrupt((Interrupt(value=value, id=f"pause-{configurable['checkpoint_ns']}"),))


class Interceptor:
    """Handles the tool calls of a ToolNode, see `intercept`."""

    def begin(self, node: ToolNode, name: str, arguments: Mapping[str, object]) -> None:
        """Called before each call of a tool, outside the node's own wrappers."""

    def run(self, request: ToolCallRequest, execute: Callable[[ToolCallRequest], ToolResult]) -> ToolResult:
        """Return the tool's result, inside the node's own wrappers."""
        return execute(request)

    async def arun(
        self, request: ToolCallRequest, execute: Callable[[ToolCallRequest], Awaitable[ToolResult]]
    ) -> ToolResult:
        return await execute(request)


def intercept(node: ToolNode, by: Interceptor) -> None:
    """Have a ToolNode ask `by` about each call of a tool.

    The node is changed in place, because agents that are called in a node cannot be reached otherwise. A node that was
    changed already stays as it is.
    """
    if "_intercepted_by_collab_agents" in vars(node):
        return
    run_one, arun_one = node._run_one, node._arun_one
    execute, aexecute = node._execute_tool_sync, node._execute_tool_async

    def run_one_intercepted(call: ToolCall, *arguments: Any) -> ToolResult:
        by.begin(node, call["name"], call["args"])
        return run_one(call, *arguments)

    async def arun_one_intercepted(call: ToolCall, *arguments: Any) -> ToolResult:
        by.begin(node, call["name"], call["args"])
        return await arun_one(call, *arguments)

    def execute_intercepted(request: ToolCallRequest, *arguments: Any) -> ToolResult:
        return by.run(request, lambda one: execute(one, *arguments))

    async def aexecute_intercepted(request: ToolCallRequest, *arguments: Any) -> ToolResult:
        return await by.arun(request, lambda one: aexecute(one, *arguments))

    vars(node).update(
        _run_one=run_one_intercepted,
        _arun_one=arun_one_intercepted,
        _execute_tool_sync=execute_intercepted,
        _execute_tool_async=aexecute_intercepted,
        _intercepted_by_collab_agents=True,
    )


def reading_own_types(
    graph: Pregel[Any, Any, Any, Any], saver: "BaseCheckpointSaver[Any]"
) -> "BaseCheckpointSaver[Any]":
    """Return the saver, allowed to read the types in the graph's state if LangGraph is strict about them."""
    return graph._apply_checkpointer_allowlist(saver) or saver


def types_in_state(graph: Pregel[Any, Any, Any, Any]) -> frozenset[tuple[str, ...]]:
    """Return the modules and names of the types that a graph's state declares, and of LangChain's messages."""
    schemas: list[type] = list(getattr(getattr(graph, "builder", None), "schemas", ()))
    return frozenset(build_serde_allowlist(schemas=schemas, channels=dict(graph.channels)))


def streams_messages(handler: BaseCallbackHandler) -> bool:
    """Whether the handler is the one that streams models' output to the reader of the surrounding graph."""
    return type(handler).__module__ == "langgraph.pregel._messages"


def _configurable() -> dict[str, Any]:
    return (var_child_runnable_config.get() or {}).get("configurable") or {}
