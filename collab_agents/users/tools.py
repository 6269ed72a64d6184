"""Tools of the simulated user, such as a customer's own order lookup."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool

from collab_agents._internal.reasons import words_of
from collab_agents.messages import text_of

UserState = dict[str, Any]
"""JSON values that a user's tools read and change, in one branch."""

_state: ContextVar[UserState | None] = ContextVar("collab_agents_user_state", default=None)


def user_state() -> UserState:
    """Return the state that a user's tools read and change, in the current branch only.

    Returns:
        A dict of JSON values. It starts as the task's `metadata["user_state"]`, or empty.

    Raises:
        RuntimeError: If called outside of a user's tool.

    Example:
        def order_number() -> str:
            '''Look up your order number.'''
            return user_state()["order"]


        user = LLMUser(model, tools=[order_number])
    """
    state = _state.get()
    if state is None:
        raise RuntimeError("user_state is for tools that a simulated user calls")
    return state


@contextmanager
def lending(state: UserState) -> Iterator[None]:
    token = _state.set(state)
    try:
        yield
    finally:
        _state.reset(token)


async def run_tools(
    tools: Sequence[BaseTool], reply: AIMessage, state: UserState, *, seconds: float | None
) -> list[ToolMessage]:
    """Run the tool calls in a reply, each within `seconds`, and return their results in order, errors included."""
    by_name = {tool.name: tool for tool in tools}
    results = []
    with lending(state):
        for call in reply.tool_calls:
            tool, limit = by_name.get(call["name"]), None
            try:
                if tool is None:
                    raise LookupError(f"there is no tool {call['name']!r}; the tools are {', '.join(by_name)}")
                async with asyncio.timeout(seconds) as limit:
                    result = await tool.ainvoke({**call, "type": "tool_call"})
            except Exception as error:
                why = (
                    f"{call['name']}: no result within {seconds:g} s" if limit and limit.expired() else words_of(error)
                )
                result = ToolMessage(why, name=call["name"], tool_call_id=call["id"], status="error")
            results.append(result)
    return results


def noted(reply: AIMessage, results: Sequence[ToolMessage]) -> list[str]:
    """Describe the tool calls and their results, one line each."""
    return [
        f"[You used {call['name']}({json.dumps(call['args'], ensure_ascii=False)}): {text_of(result).strip()}]"
        for call, result in zip(reply.tool_calls, results, strict=True)
    ]
