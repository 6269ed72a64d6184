"""Who takes part in a conversation: what a simulated user and an assistant are, and what they remember."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from langchain_core.messages import BaseMessage

Memory = dict[str, Any]
"""What a participant remembers between its turns: JSON values under keys of its own.

A user finds three more keys in it, put there by the graph for each call and not to be changed: `task` (the `Task`,
with the goal), `persona` (a `Persona` or None) and `seed` (an int, this branch's own). An assistant finds `seed` and
`proactive` (whether to use its proactive prompt).
"""


LENT = {"task", "persona", "seed", "proactive", "executable"}
"""Keys that a participant finds in its memory for one call and that are not kept there."""


@runtime_checkable
class SimulatedUser(Protocol):
    """Plays the user.

    It holds no state between calls. Everything it remembers is in the memory it returns, so that a conversation
    branches by copying a value.
    """

    async def respond(self, messages: Sequence[BaseMessage], memory: Memory) -> tuple[BaseMessage | None, Memory]:
        """The user's next message and memory.

        messages: the conversation so far, empty before the first turn.
        memory: as this method returned it last, {} before the first turn; see `Memory` for what is added.

        No message (None) ends the conversation; so does a message made by `closing`, which is kept.
        """
        ...


@runtime_checkable
class Assistant(Protocol):
    """Answers the user. Like a `SimulatedUser` it holds no state between calls.

    An assistant may also have a method `state_of(memory)`, which gives judges what else there is to judge, such as
    the final state of an app, as `Conversation.state`.
    """

    async def respond(self, messages: Sequence[BaseMessage], memory: Memory) -> tuple[list[BaseMessage], Memory]:
        """The reply to a conversation that ends with the user's message, and the assistant's memory.

        The reply is one message or several (tool calls and their results before the final words). See `Memory`
        for what the graph adds to the memory of each call.
        """
        ...


@dataclass(frozen=True)
class Executed:
    """What came of executing a reply: the messages that hold, and the memory to go on with.

    interrupts: what the app waits for (LangGraph's `Interrupt`s); then the reply is what there is so far.
    """

    reply: list[BaseMessage]
    memory: Memory
    interrupts: list[Any] = field(default_factory=list)


@runtime_checkable
class Executing(Assistant, Protocol):
    """An assistant whose replies are simulated at first, and executed once chosen; see `GraphAssistant.execute`."""

    async def execute(
        self,
        messages: Sequence[BaseMessage],
        memory: Memory,
        reply: Sequence[BaseMessage],
        after: Memory,
        *,
        answers: Mapping[str, Any] | None = None,
        in_words: bool = True,
    ) -> Executed: ...
