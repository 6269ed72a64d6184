from collections.abc import Sequence

from langchain_core.messages import BaseMessage, HumanMessage

from collab_agents.messages import is_users
from collab_agents.participants import Memory, UserContext


class ScriptedUser:
    """A user who says the given lines in order, whatever the assistant answers, and then ends the conversation.

    Args:
        lines: The user's messages. "{goal}" in a line is replaced by the task's goal.

    Example:
        user = ScriptedUser(["{goal}", "Please make it shorter."])
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
        for name in ("{goal}", "{prompt}"):  # "{prompt}" is the name in earlier versions.
            line = line.replace(name, context.task.goal)
        return HumanMessage(line), memory
