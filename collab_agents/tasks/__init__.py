"""Tasks state what a user wants, hidden from the assistant. They come from built-in sets, files and datasets."""

from collab_agents.tasks.abg_coqa import abg_coqa
from collab_agents.tasks.agenda import Agenda, Fact
from collab_agents.tasks.bigcodebench import bigcodebench_chat
from collab_agents.tasks.load import TASK_SETS, load_tasks, read_jsonl
from collab_agents.tasks.mapped import Columns
from collab_agents.tasks.math_chat import math_chat
from collab_agents.tasks.mediumdocedit import mediumdocedit_chat
from collab_agents.tasks.offline import offline_tasks
from collab_agents.tasks.task import Task

__all__ = [
    "TASK_SETS",
    "Agenda",
    "Columns",
    "Fact",
    "Task",
    "abg_coqa",
    "bigcodebench_chat",
    "load_tasks",
    "math_chat",
    "mediumdocedit_chat",
    "offline_tasks",
    "read_jsonl",
]
