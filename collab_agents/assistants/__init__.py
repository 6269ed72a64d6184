"""Assistants: what answers the user, and what training improves."""

from importlib import import_module
from typing import Any

from collab_agents.assistants.chat import ChatAssistant
from collab_agents.assistants.load import load_assistant
from collab_agents.participants import Assistant

__all__ = ["AskUser", "Assistant", "ChatAssistant", "GraphAssistant", "is_simulating", "load_assistant", "simulate_as"]


# These import langgraph, which `import collab_agents.assistants` does not.
_HOME_OF = {
    "AskUser": "apps.interrupts",
    "GraphAssistant": "apps.assistant",
    "is_simulating": "apps.simulated_tools",
    "simulate_as": "apps.simulated_tools",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
