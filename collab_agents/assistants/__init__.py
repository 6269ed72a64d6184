"""Assistants: what answers the user, and what training improves."""

from typing import Any

from collab_agents.assistants.base import Assistant
from collab_agents.assistants.chat import ChatAssistant
from collab_agents.assistants.load import load_assistant

__all__ = ["AskUser", "Assistant", "ChatAssistant", "GraphAssistant", "is_simulating", "load_assistant", "simulate"]


def __getattr__(name: str) -> Any:
    # These import langgraph, which `import collab_agents.assistants` does not.
    if name == "GraphAssistant":
        from collab_agents.assistants import app as home
    elif name == "AskUser":
        from collab_agents.assistants import interrupts as home  # type: ignore[no-redef]
    elif name in ("is_simulating", "simulate"):
        from collab_agents.assistants import simulation as home  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(home, name)
