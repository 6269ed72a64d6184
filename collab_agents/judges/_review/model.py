"""The faults of a user, found by a model."""

from langchain_core.language_models import BaseChatModel
from pydantic import BaseModel

from collab_agents._internal.seeds import derive_seed
from collab_agents.judges._review.faults import Fault, FaultKind
from collab_agents.judges._review.said import Exchange
from collab_agents.judges.base import Conversation
from collab_agents.models.ask import ask
from collab_agents.prompts import render
from collab_agents.tasks import Task


class FoundFault(BaseModel):
    kind: FaultKind
    message: int
    reason: str = ""


class UserReview(BaseModel):
    faults: list[FoundFault]


async def faults_by_model(
    model: BaseChatModel, conversation: Conversation, task: Task, exchange: Exchange
) -> list[Fault]:
    """Ask the model for the faults in the messages to review.

    Raises:
        UnusableReply: If the model gives no usable answer.
        ModelError: If the model cannot be called.
    """
    persona = conversation.persona
    question = render(
        "user_faults",
        goal=task.goal,
        character=persona.describe() if persona else "An ordinary person.",
        first=str(exchange.first),
        end="The user ended it." if exchange.ended else "It was cut off; the user had not ended it.",
    )
    seed = derive_seed(conversation.seed, "user_faults")
    review = await ask(model, conversation.question(question), UserReview, seed=seed)
    # What came before the future is the same for all candidates.
    found = [one for one in review.faults if exchange.first <= one.message <= len(exchange.said)]
    if exchange.ended:  # Models also name the message after the last one, if there was an end without a word.
        found += [one for one in review.faults if one.kind == "ends_early" and one not in found]
    return [Fault(one.kind, min(one.message, len(exchange.said)), one.reason) for one in found]
