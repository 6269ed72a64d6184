"""Multiturn-aware rewards and scored trajectories for collaborative assistants.

The names below are imported when they are first used: `import collab_agents` itself loads next to nothing.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from collab_agents._internal.lazy import names_from

if TYPE_CHECKING:
    from collab_agents.assistants import AskUser, Assistant, ChatAssistant, GraphAssistant, is_simulating, simulate_as
    from collab_agents.config import RunConfig
    from collab_agents.costs import Price, SpendingLimits, given_prices
    from collab_agents.graphs import (
        create_conversation_graph,
        create_lookahead_agent,
        create_lookahead_graph,
        create_rollout_graph,
        draw_graph,
    )
    from collab_agents.humans import HumanAssistant, HumanUser
    from collab_agents.lookahead import Budget, Lookahead
    from collab_agents.models import Limits, load_chat_model
    from collab_agents.personas import PERSONAS, Persona, load_personas, sample_personas
    from collab_agents.rewards import MultiturnReward
    from collab_agents.runs import (
        LiveTable,
        Parts,
        Progress,
        ProgressBar,
        TaskSet,
        estimate_cost,
        evaluate,
        generate_trajectories,
        play_conversations,
        simulate,
    )
    from collab_agents.runs.workers import RayOptions
    from collab_agents.tasks import Task, load_tasks, offline_tasks
    from collab_agents.trajectories import Trajectory, read_trajectories
    from collab_agents.usage import Usage, track_usage
    from collab_agents.users import AgendaUser, LLMUser, ScriptedUser, SimulatedUser
    from collab_agents.value import LearnedValue, ValueModel, load_value
    from collab_agents.variance import Reliability, reliability

    __version__: str

_HOMES = {
    "assistants": ("AskUser", "Assistant", "ChatAssistant", "GraphAssistant", "is_simulating", "simulate_as"),
    "config": ("RunConfig",),
    "costs": ("Price", "SpendingLimits", "given_prices"),
    "lookahead": ("Budget", "Lookahead"),
    "graphs": (
        "create_conversation_graph",
        "create_lookahead_agent",
        "create_lookahead_graph",
        "create_rollout_graph",
        "draw_graph",
    ),
    "humans": ("HumanAssistant", "HumanUser"),
    "models": ("Limits", "load_chat_model"),
    "personas": ("PERSONAS", "Persona", "load_personas", "sample_personas"),
    "rewards": ("MultiturnReward",),
    "runs": (
        "LiveTable",
        "Parts",
        "Progress",
        "ProgressBar",
        "TaskSet",
        "estimate_cost",
        "evaluate",
        "generate_trajectories",
        "play_conversations",
        "simulate",
    ),
    "runs.workers": ("RayOptions",),
    "tasks": ("Task", "load_tasks", "offline_tasks"),
    "trajectories": ("Trajectory", "read_trajectories"),
    "usage": ("Usage", "track_usage"),
    "users": ("AgendaUser", "LLMUser", "ScriptedUser", "SimulatedUser"),
    "value": ("LearnedValue", "ValueModel", "load_value"),
    "variance": ("Reliability", "reliability"),
}
_load = names_from(__name__, _HOMES)

__all__ = [
    "PERSONAS",
    "AgendaUser",
    "AskUser",
    "Assistant",
    "Budget",
    "ChatAssistant",
    "GraphAssistant",
    "HumanAssistant",
    "HumanUser",
    "LLMUser",
    "LearnedValue",
    "Limits",
    "LiveTable",
    "Lookahead",
    "MultiturnReward",
    "Parts",
    "Persona",
    "Price",
    "Progress",
    "ProgressBar",
    "RayOptions",
    "Reliability",
    "RunConfig",
    "ScriptedUser",
    "SimulatedUser",
    "SpendingLimits",
    "Task",
    "TaskSet",
    "Trajectory",
    "Usage",
    "ValueModel",
    "create_conversation_graph",
    "create_lookahead_agent",
    "create_lookahead_graph",
    "create_rollout_graph",
    "draw_graph",
    "estimate_cost",
    "evaluate",
    "generate_trajectories",
    "given_prices",
    "is_simulating",
    "load_chat_model",
    "load_personas",
    "load_tasks",
    "load_value",
    "offline_tasks",
    "play_conversations",
    "read_trajectories",
    "reliability",
    "sample_personas",
    "simulate",
    "simulate_as",
    "track_usage",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("collab-agents")
    return _load(name)


def __dir__() -> list[str]:
    return __all__
