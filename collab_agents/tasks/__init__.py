"""Tasks: what a user wants, hidden from the assistant, and where tasks come from."""

from collab_agents.tasks.agenda import Agenda, Fact
from collab_agents.tasks.load import load_tasks, read_jsonl
from collab_agents.tasks.offline import offline_tasks
from collab_agents.tasks.task import Task

__all__ = ["Agenda", "Fact", "Task", "load_tasks", "offline_tasks", "read_jsonl"]
