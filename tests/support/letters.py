"""A judge whose score a tiny model can raise."""

from collab_agents.judges.base import Conversation, Score
from collab_agents.tasks import Task


async def letters(conversation: Conversation, task: Task) -> Score:
    """The share of the assistant's words that is the letter e."""
    said = "".join(conversation.assistant_texts())
    return Score(said.count("e") / max(1, len(said)), "")
