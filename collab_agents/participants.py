"""The participants of a conversation: the protocols for simulated users and assistants, their context and memory."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from langchain_core.messages import BaseMessage

from collab_agents.personas import Persona
from collab_agents.tasks import Task

if TYPE_CHECKING:
    from langgraph.types import Interrupt

T = TypeVar("T")

Memory = dict[str, Any]
"""What a participant remembers between its turns: JSON values under keys that the participant chooses."""

Answers = Mapping[str, Any]
"""Values to resume an app with, by the ids of the interrupts that they answer."""


@dataclass(frozen=True, kw_only=True)
class TurnContext:
    """What a participant is told about one turn. It is valid for one call and is not remembered.

    Attributes:
        seed: Derived from the run, the task, the turn and the branch. A participant that draws all its randomness
            from the seed plays the same branch the same way every time.
    """

    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class UserContext(TurnContext):
    """What a simulated user is told about its turn.

    Attributes:
        task: The task, with the goal that the user pursues. The assistant never sees it.
        persona: The persona to play, or None.
    """

    task: Task
    persona: Persona | None = None


@dataclass(frozen=True, kw_only=True)
class AssistantContext(TurnContext):
    """What an assistant is told about its turn.

    Attributes:
        proactive: Whether this candidate is sampled with the proactive prompt.
        system_prompt: The system prompt of this conversation, which replaces the assistant's own, or None.
        executable: Whether the reply may be executed later. If so, an app records where its simulation began.
    """

    proactive: bool = False
    system_prompt: str | None = None
    executable: bool = True


@runtime_checkable
class SimulatedUser(Protocol):
    """A participant that plays the user.

    It holds no state between calls. Everything it remembers is in the memory it returns, so that a conversation
    branches by copying a value.
    """

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: UserContext
    ) -> tuple[BaseMessage | None, Memory]:
        """Return the user's next message and its memory.

        Args:
            messages: The conversation so far; empty before the first turn.
            memory: What this method returned last; {} before the first turn.
            context: The task, the persona and the seed of this turn.

        Returns:
            The message and the memory. None in place of a message ends the conversation. A message made by `closing`
            also ends it, and is part of it.
        """
        ...


@runtime_checkable
class Assistant(Protocol):
    """A participant that answers the user. Like a `SimulatedUser`, it holds no state between calls."""

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        """Return the reply to a conversation that ends with the user's message, and the assistant's memory.

        Args:
            messages: The conversation so far.
            memory: What this method returned last; {} before the first turn.
            context: The seed of this turn, and whether to be proactive.

        Returns:
            The reply and the memory. The reply is one message or several: tool calls and their results come before
            the final text.
        """
        ...


@runtime_checkable
class ChecksTasks(Protocol):
    """A user that can tell from a task alone that it cannot play it."""

    def problem_with(self, task: Task) -> str | None:
        """Return why the task cannot be played, as a clause, or None."""
        ...


@runtime_checkable
class HasState(Protocol):
    """An assistant that exposes state to judges, such as the final state of an app (`Conversation.state`)."""

    def state_of(self, memory: Memory) -> dict[str, Any]:
        """Return the state after the assistant's last turn."""
        ...


def problem_for(user: SimulatedUser, task: Task) -> str | None:
    """Return why the user cannot play the task, if it can tell beforehand, or None."""
    return user.problem_with(task) if isinstance(user, ChecksTasks) else None


def state_of(assistant: Assistant, memory: Memory) -> dict[str, Any]:
    """Return what there is to judge besides the messages."""
    return assistant.state_of(memory) if isinstance(assistant, HasState) else {}


@dataclass(frozen=True)
class Executed:
    """The result of executing a reply.

    Attributes:
        reply: The executed messages, so far if the app waits for an answer.
        memory: The memory to continue with.
        interrupts: The interrupts (LangGraph's `Interrupt`) that the app waits for; empty if the reply is complete.
    """

    reply: list[BaseMessage]
    memory: Memory
    interrupts: "list[Interrupt]" = field(default_factory=list)


@runtime_checkable
class Executing(Assistant, Protocol):
    """An assistant whose replies are simulated first and executed once chosen (see `GraphAssistant.execute`)."""

    async def execute(
        self,
        messages: Sequence[BaseMessage],
        memory: Memory,
        reply: Sequence[BaseMessage],
        after: Memory,
        *,
        context: AssistantContext | None = None,
        answers: Answers | None = None,
        in_words: bool = True,
    ) -> Executed:
        """Execute the tool calls that were simulated for this reply."""
        ...


def with_context(respond: Callable[..., T]) -> Callable[..., T]:
    """Adapt `respond` to be called with messages, memory and context, even if it takes no context."""
    return respond if _takes_context(respond) else lambda messages, memory, context: respond(messages, memory)


def _takes_context(respond: Callable[..., object]) -> bool:
    try:
        parameters = list(inspect.signature(respond).parameters.values())
    except (TypeError, ValueError):  # Some builtins have no signature.
        return True
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return True
    third = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)][2:3]
    return any(one.name == "context" or one.default is one.empty for one in third)
