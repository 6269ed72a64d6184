"""Simulated users: played by a chat model, by an agenda, or from a script."""

from collab_agents.participants import Memory, SimulatedUser, UserContext
from collab_agents.users.agenda import AgendaUser
from collab_agents.users.base import closing, is_closing
from collab_agents.users.llm import LLMUser
from collab_agents.users.own import AnyUser, as_user, load_user
from collab_agents.users.runnable import STOP, RunnableUser
from collab_agents.users.scripted import ScriptedUser
from collab_agents.users.tools import user_state

__all__ = [
    "STOP",
    "AgendaUser",
    "AnyUser",
    "LLMUser",
    "Memory",
    "RunnableUser",
    "ScriptedUser",
    "SimulatedUser",
    "UserContext",
    "as_user",
    "closing",
    "is_closing",
    "load_user",
    "user_state",
]
