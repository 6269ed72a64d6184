"""Running many conversations: generate trajectories, evaluate assistants, and keep the results on disk."""

from collab_agents.runs.choices import ChangedChoice, changed_choices
from collab_agents.runs.compact import compact
from collab_agents.runs.estimate import CostEstimate, estimate_cost
from collab_agents.runs.evaluate import TaskSet, evaluate
from collab_agents.runs.generate import check_tasks, generate_trajectories, play_conversations
from collab_agents.runs.parts import Parts
from collab_agents.runs.progress import Progress, ProgressBar
from collab_agents.runs.rejudge import rejudge
from collab_agents.runs.simulate import simulate

__all__ = [
    "ChangedChoice",
    "CostEstimate",
    "Parts",
    "Progress",
    "ProgressBar",
    "TaskSet",
    "changed_choices",
    "check_tasks",
    "compact",
    "estimate_cost",
    "evaluate",
    "generate_trajectories",
    "play_conversations",
    "rejudge",
    "simulate",
]
