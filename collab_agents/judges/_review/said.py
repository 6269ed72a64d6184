"""What the user said, and what it answered: all that a review needs of the messages."""

from dataclasses import dataclass
from itertools import groupby

from collab_agents.judges.base import Conversation
from collab_agents.messages import is_assistants, is_users, replies, text_of


@dataclass(frozen=True)
class Said:
    """A message of the user."""

    number: int
    """From 1, among the user's messages."""
    text: str
    answers: str | None
    """What the assistant said just before it, or None if it said nothing."""


@dataclass(frozen=True)
class Exchange:
    """A conversation as a review reads it."""

    said: tuple[Said, ...]
    """The user's messages."""
    first: int
    """The number of the first message to review. Those before it came before the future."""
    unanswered: str | None
    """What the assistant said last, if the user said nothing after it."""
    ended: bool
    """Whether the user ended the conversation."""

    @property
    def reviewed(self) -> tuple[Said, ...]:
        return self.said[self.first - 1 :]

    def closes(self, message: Said) -> bool:
        """Whether the user ended the conversation with this message."""
        return self.ended and self.unanswered is None and message.number == len(self.said)


def exchange_of(conversation: Conversation) -> Exchange:
    """Read a conversation."""
    said: list[Said] = []
    heard: str | None = None
    messages = [message for message in conversation.messages if message.type != "system"]
    for assistants, turn in groupby(messages, is_assistants):
        if assistants:
            heard = replies(turn)[0]
            continue
        for message in turn:
            said.append(Said(len(said) + 1, text_of(message), heard))
            heard = None
    before = sum(map(is_users, conversation.messages[: conversation.start]))
    return Exchange(tuple(said), before + 1, heard, conversation.stopped == "user")
