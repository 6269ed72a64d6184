from collections.abc import Callable

from langchain_core.messages import BaseMessage

from collab_agents.judges.base import Conversation, Judge, Score, checked
from collab_agents.judges.registry import register
from collab_agents.messages import is_users, tokens_of
from collab_agents.tasks import Task


@register(metric=False)
def assistant_tokens() -> Judge:
    """The number of tokens that the user has to read: all assistant messages, counted as in `token_cost`."""
    return _tokens(lambda message: message.type == "ai")


@register(metric=False)
def user_tokens() -> Judge:
    """The number of tokens that the user typed: one per four characters of each message, rounded up."""
    return _tokens(is_users)


def _tokens(counts: Callable[[BaseMessage], bool]) -> Judge:
    @checked()
    async def judge(conversation: Conversation, task: Task) -> Score:
        return Score(float(sum(tokens_of(message) for message in conversation.messages if counts(message))))

    return judge
