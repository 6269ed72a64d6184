from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable

from collab_agents.messages import as_seen, replies, text_of
from collab_agents.participants import AssistantContext, Memory, UserContext
from collab_agents.users.base import closing

STOP = "###STOP###"
"""The text with which a `RunnableUser` ends the conversation, as in tau2-bench."""


class RunnableUser:
    """Any LangChain Runnable or compiled LangGraph app as the user.

    The app is called with `messages`, `goal` (the task's goal), `persona` (in words, may be empty) and `inputs`. In
    `messages` the roles are swapped: the user's own messages are AI messages and the assistant's are human messages,
    without tool calls and results. The app answers with a string, a message, or a state with `messages`.

    Args:
        app: The Runnable or compiled graph that plays the user. An app with a checkpointer is forked in every branch,
            as in `GraphAssistant`.
        stop: Text that ends the conversation when it occurs in an answer. What comes before it is still said.
        inputs: Other state keys for the app.
        **options: Further options of `GraphAssistant`.

    Example:
        user = RunnableUser(customer_graph, inputs={"order": "A-17"})
    """

    def __init__(
        self, app: Runnable[Any, Any], *, stop: str = STOP, inputs: Mapping[str, object] | None = None, **options: Any
    ) -> None:
        from collab_agents.assistants.apps.assistant import GraphAssistant  # Imports langgraph.

        self.stop = stop
        self._inputs = dict(inputs or {})
        self._app = GraphAssistant(app, **options)

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: UserContext
    ) -> tuple[BaseMessage | None, Memory]:
        persona = context.persona
        told = {"goal": context.task.goal, "persona": persona.describe() if persona else "", **self._inputs}
        said, after = await self._app.respond(
            _from_the_other_side(messages), memory, AssistantContext(seed=context.seed, executable=False), inputs=told
        )
        words, stop, _ = "\n\n".join(replies(said)).partition(self.stop)
        if not stop:
            # The id tells which messages the app has seen at its next turn.
            return HumanMessage(words, id=said[-1].id), after
        return (closing(words.strip()) if words.strip() else None), after


def _from_the_other_side(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    sides: dict[str, type[BaseMessage]] = {"human": AIMessage, "ai": HumanMessage}
    seen = [message for message in as_seen(messages) if message.type in sides]
    return [sides[message.type](text_of(message), id=message.id) for message in seen]
