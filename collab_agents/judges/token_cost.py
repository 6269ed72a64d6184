from pydantic import PositiveFloat, validate_call

from collab_agents.judges.base import Conversation, Judge, Score, checked
from collab_agents.judges.registry import register
from collab_agents.messages import tokens_of
from collab_agents.tasks import Task


@register(metric=False)
@validate_call
def token_cost(rate: PositiveFloat = 5e-4) -> Judge:
    """What reading the assistant costs the user: -min(rate * tokens, 1), in [-1, 0].

    All assistant messages count, with the tokens that the model reported. A message without a report counts one token
    per four characters, rounded up.

    Args:
        rate: The paper's lambda (arXiv 2502.00640, section 3), the cost of a token. The default reaches the full cost
            at 2000 tokens.
    """

    @checked()
    async def judge(conversation: Conversation, task: Task) -> Score:
        tokens = sum(tokens_of(message) for message in conversation.messages if message.type == "ai")
        return Score(-min(rate * tokens, 1.0), f"{tokens} assistant tokens")

    return judge
