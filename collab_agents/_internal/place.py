"""Where code runs in a LangGraph app."""

from typing import Any

from langchain_core.runnables.config import var_child_runnable_config


def task_around() -> str:
    """The innermost LangGraph task that this runs in, "node:id|inner node:id"; empty outside of one."""
    configurable: dict[str, Any] = (var_child_runnable_config.get() or {}).get("configurable") or {}
    return configurable.get("checkpoint_ns") or ""
