"""People in the conversation. They are asked by LangGraph's `interrupt` and answer by `Command(resume=...)`."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage, convert_to_messages

from collab_agents.errors import ConfigError
from collab_agents.messages import as_seen, text_of
from collab_agents.participants import AssistantContext, Memory, UserContext
from collab_agents.users.base import closing

T = TypeVar("T")

_ROLES = {"human": "user", "ai": "assistant", "tool": "tool"}
_SHAPES: dict[str, type[BaseMessage]] = {"human": HumanMessage, "ai": AIMessage, "tool": ToolMessage}


class _Person:
    """A person, for whom a graph waits. A person cannot be in branches or batches."""


class HumanUser(_Person):
    """A person as the user. The graph, or the graph around it, needs a checkpointer.

    Each turn interrupts the graph with a JSON object for a UI to show: `role` ("user"), `said` (the assistant's last
    words, or None before the first), `problem` (why the last answer could not be used, or None), and with `show_goal`
    also `goal` (what to pursue) and `persona` (whom to play, in words, or None). Resume the graph with

    - a text: what the user says;
    - "", {"end": true} or None: the end of the conversation (LangGraph accepts None only by the interrupt's id);
    - {"content": text, "end": true}: last words, which end the conversation;
    - {"content": ...}, a message dict of the role user, or a HumanMessage, images included.

    After any other answer the graph asks again, with the problem.

    Args:
        show_goal: Whether the question contains the goal and the persona.

    Raises:
        ConfigError: If there is no checkpointer, when the graph runs.
    """

    def __init__(self, *, show_goal: bool = True) -> None:
        self.show_goal = show_goal

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: UserContext
    ) -> tuple[BaseMessage | None, Memory]:
        question: dict[str, object] = {"role": "user", "said": _last_words(messages, besides="human")}
        if self.show_goal:
            persona = context.persona
            question |= {"goal": context.task.goal, "persona": persona.describe() if persona else None}
        return _asked(question, _users_message), memory


class HumanAssistant(_Person):
    """A person as the assistant. Works like `HumanUser`, with `role` "assistant" and the user's last words as `said`.

    Resume the graph with a text, a message dict of the role assistant, an AIMessage, or a list of these and of tool
    messages that ends with the assistant's words. An assistant cannot end the conversation.
    """

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        question = {"role": "assistant", "said": _last_words(messages, besides="ai")}
        return _asked(question, _assistants_messages), memory


def check_simulated(*participants: object, instead: str) -> None:
    """Raise ConfigError if a participant is a person, where many branches or conversations run at once.

    instead: what to do instead, as a clause.
    """
    for one in participants:
        if isinstance(one, _Person):
            raise ConfigError(f"a {type(one).__name__} cannot be in many conversations at once: {instead}")


def _asked(question: Mapping[str, object], read: Callable[[object], T]) -> T:
    from langgraph.types import interrupt

    from collab_agents._internal.langgraph_private import can_be_resumed

    # Without a checkpointer LangGraph interrupts all the same, and only the answer fails.
    if not can_be_resumed():
        raise ConfigError(
            f"a person is the {question['role']}, and a graph that waits for a person needs a checkpointer: "
            "pass checkpointer=InMemorySaver(), or one that lasts"
        )
    problem = None
    while True:
        answer = interrupt({**question, "problem": problem})
        try:
            return read(answer)
        except ValueError as error:
            problem = str(error)


def _last_words(messages: Sequence[BaseMessage], *, besides: str) -> str | None:
    """Return what was said since the person last spoke. A reply may be several messages."""
    said: list[str] = []
    for message in reversed(list(as_seen(messages))):
        if message.type == besides:
            break
        if message.type in ("human", "ai"):
            said.insert(0, text_of(message).strip())
    return "\n\n".join(words for words in said if words) or None


def _users_message(answer: object) -> BaseMessage | None:
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        return None
    end: object = False
    if isinstance(answer, dict) and "end" in answer:
        end = answer["end"]
        if not isinstance(end, bool):
            raise ValueError(f"end must be true or false, got {end!r}")
        answer = {"content": "", **{key: value for key, value in answer.items() if key != "end"}}
    message = _message(answer, ["human"])
    if not _says_something(message):
        if end:
            return None
        raise ValueError('the message is empty: say something, or end the conversation by "" or {"end": true}')
    if end:
        metadata = message.response_metadata | closing("").response_metadata
        message = message.model_copy(update={"response_metadata": metadata})
    return message


def _assistants_messages(answer: object) -> list[BaseMessage]:
    listed = answer if isinstance(answer, list) else [answer]
    messages = [_message(one, ["ai", "tool"] if len(listed) > 1 else ["ai"]) for one in listed]
    if not messages or messages[-1].type != "ai" or not _says_something(messages[-1]):
        raise ValueError("the reply is empty: a reply ends with the assistant's words")
    calls: set[str | None] = set()
    for message in messages:
        if isinstance(message, ToolMessage) and message.tool_call_id not in calls:
            raise ValueError(f"the tool message's tool_call_id {message.tool_call_id!r} matches no call before it")
        calls |= {call["id"] for call in getattr(message, "tool_calls", ())}
    return messages


def _message(answer: object, kinds: Sequence[str]) -> BaseMessage:
    """Return the answer as a message of one of the kinds. Raises ValueError that says what would be right."""
    wanted = " or ".join(_ROLES[kind] for kind in kinds)
    if isinstance(answer, str):
        answer = {"content": answer}
    if isinstance(answer, dict):
        given = answer if "role" in answer or "type" in answer else {**answer, "role": _ROLES[kinds[0]]}
        try:
            (message,) = convert_to_messages([given])
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ValueError(f"not a message with the role {wanted}: {reason}") from error
    elif isinstance(answer, BaseMessage):
        message = answer
    else:
        raise ValueError(f"expected a text or a message with the role {wanted}, got {type(answer).__name__}")
    if message.type not in kinds:
        raise ValueError(f"expected a message with the role {wanted}, got {_ROLES.get(message.type, message.type)}")
    if isinstance(answer, dict):
        known = {"role", *_SHAPES[message.type].model_fields}
        for key in answer:
            if key not in known:
                raise ValueError(f"a message has no {key!r}: expected role and content")
    return message


def _says_something(message: BaseMessage) -> bool:
    # Content without a text may still be an image.
    return bool(text_of(message).strip() or (isinstance(message.content, list) and message.content))
