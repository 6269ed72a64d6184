"""Judges of one's own: functions of the finished conversation and the task, async or not."""

from collab_agents.judges import Conversation, Score
from collab_agents.tasks import Task


def short_first_reply(conversation: Conversation, task: Task) -> Score:
    """1 for a first reply of at most 40 words, which leaves the user room to answer, else 0."""
    words = len(conversation.assistant_texts()[0].split())
    return Score(float(words <= 40), f"{words} words")
