from collections.abc import Sequence

from langchain_core.messages import BaseMessage, HumanMessage

from collab_agents.messages import is_users
from collab_agents.participants import Memory, UserContext


class ScriptedUser:
    """Says the given lines in order, whatever the assistant answers, and then ends the conversation.

    In a line, "{goal}" stands for the task's goal.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: UserContext
    ) -> tuple[BaseMessage | None, Memory]:
        said = sum(map(is_users, messages))
        if said >= len(self.lines):
            return None, memory
        line = self.lines[said]
        for name in ("{goal}", "{prompt}"):  # The second is how earlier versions called it.
            line = line.replace(name, context.task.goal)
        return HumanMessage(line), memory
