from collections.abc import Callable

from langchain_core.messages import BaseMessage

from collab_agents.judges.base import Conversation, Judge, Score, checked
from collab_agents.judges.registry import register
from collab_agents.messages import is_users, tokens_of
from collab_agents.tasks import Task


@register(metric=False)
def assistant_tokens() -> Judge:
    """How many tokens the user has to read: those of all assistant messages, counted as by `token_cost`."""
    return _tokens(lambda message: message.type == "ai")


@register(metric=False)
def user_tokens() -> Judge:
    """How many tokens the user typed: one for four characters of each message, rounded up."""
    return _tokens(is_users)


def _tokens(counts: Callable[[BaseMessage], bool]) -> Judge:
    @checked()
    async def judge(conversation: Conversation, task: Task) -> Score:
        return Score(float(sum(tokens_of(message) for message in conversation.messages if counts(message))))

    return judge
