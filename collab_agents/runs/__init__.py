"""Running many conversations: generate trajectories, evaluate assistants, and keep the results on disk."""

from collab_agents.runs.choices import ChangedChoice, changed_choices
from collab_agents.runs.compact import compact
from collab_agents.runs.estimate import CostEstimate, estimate_cost
from collab_agents.runs.evaluate import TaskSet, evaluate
from collab_agents.runs.generate import check_tasks, generate_trajectories, play_conversations
from collab_agents.runs.live import LiveTable
from collab_agents.runs.parts import Parts
from collab_agents.runs.progress import Progress, ProgressBar, TaskProgress
from collab_agents.runs.rejudge import rejudge
from collab_agents.runs.simulate import simulate
from collab_agents.runs.standing import Standing

__all__ = [
    "ChangedChoice",
    "CostEstimate",
    "LiveTable",
    "Parts",
    "Progress",
    "ProgressBar",
    "Standing",
    "TaskProgress",
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
