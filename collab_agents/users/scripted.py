from collections.abc import Sequence

from langchain_core.messages import BaseMessage, HumanMessage

from collab_agents.messages import is_users
from collab_agents.participants import Memory


class ScriptedUser:
    """Says the given lines in order, whatever the assistant answers, and then ends the conversation.

    A line may use the goal: "{prompt}" stands for the task's prompt.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)

    async def respond(self, messages: Sequence[BaseMessage], memory: Memory) -> tuple[BaseMessage | None, Memory]:
        said = sum(map(is_users, messages))
        if said >= len(self.lines):
            return None, memory
        line = self.lines[said]
        if "{prompt}" in line:
            line = line.replace("{prompt}", memory["task"].prompt)
        return HumanMessage(line), memory
