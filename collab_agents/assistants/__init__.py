"""Assistants answer the user; they are what training improves."""

from typing import Any

from collab_agents._internal.lazy import names_from
from collab_agents.assistants.chat import ChatAssistant
from collab_agents.assistants.load import load_assistant
from collab_agents.participants import Assistant, AssistantContext

__all__ = [
    "AskUser",
    "Assistant",
    "AssistantContext",
    "ChatAssistant",
    "GraphAssistant",
    "is_simulating",
    "load_assistant",
    "simulate_as",
]


# These import langgraph, which `import collab_agents.assistants` does not.
_load = names_from(
    __name__,
    {
        "apps.assistant": ("GraphAssistant",),
        "apps.interrupts": ("AskUser",),
        "apps.simulated_tools": ("is_simulating", "simulate_as"),
    },
)


def __getattr__(name: str) -> Any:
    return _load(name)
