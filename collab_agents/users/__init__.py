"""Simulated users: played by a chat model, by an agenda, or from a script."""

from collab_agents.users.agenda import AgendaUser
from collab_agents.users.base import Memory, SimulatedUser, as_user, closing, is_closing
from collab_agents.users.llm import LLMUser
from collab_agents.users.scripted import ScriptedUser

__all__ = [
    "AgendaUser",
    "LLMUser",
    "Memory",
    "ScriptedUser",
    "SimulatedUser",
    "as_user",
    "closing",
    "is_closing",
]
