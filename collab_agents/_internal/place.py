"""Where code runs in a LangGraph app."""

from langchain_core.runnables.config import var_child_runnable_config


def task_around() -> str:
    """Return the innermost LangGraph task in which this runs, "node:id|inner node:id", or "" outside of one."""
    configurable = (var_child_runnable_config.get() or {}).get("configurable") or {}
    return configurable.get("checkpoint_ns") or ""
