"""A judge whose score a tiny model can raise, and a user who fails now and then."""

from collections.abc import Sequence

from langchain_core.messages import BaseMessage

from collab_agents.judges.base import Conversation, Score
from collab_agents.participants import Memory, UserContext
from collab_agents.tasks import Task
from collab_agents.users import ScriptedUser


async def letters(conversation: Conversation, task: Task) -> Score:
    """The share of the assistant's words that is the letter e."""
    said = "".join(conversation.assistant_texts())
    return Score(said.count("e") / max(1, len(said)), "")


class Leaves(ScriptedUser):
    """A user who says a line, but fails at one of the tasks."""

    def __init__(self) -> None:
        super().__init__(["say"])

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: UserContext
    ) -> tuple[BaseMessage | None, Memory]:
        if context.task.id.endswith("-003"):
            raise ValueError("there is no time")
        return await super().respond(messages, memory, context)
