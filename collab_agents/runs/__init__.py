"""Running many conversations: generate trajectories, evaluate assistants, and keep the results on disk."""

from collab_agents.runs.evaluate import TaskSet, evaluate
from collab_agents.runs.generate import check_tasks, generate_trajectories, play_conversations
from collab_agents.runs.progress import Progress, ProgressBar
from collab_agents.runs.simulate import simulate

__all__ = [
    "Progress",
    "ProgressBar",
    "TaskSet",
    "check_tasks",
    "evaluate",
    "generate_trajectories",
    "play_conversations",
    "simulate",
]
