from langchain_core.language_models import BaseChatModel
from pydantic import BaseModel

from collab_agents._internal.seeds import derive_seed
from collab_agents.judges.base import Conversation, Judge, Score, checked
from collab_agents.judges.registry import register
from collab_agents.models.ask import ask
from collab_agents.prompts import render
from collab_agents.tasks import Task
from collab_agents.tasks.questions import asks


class QuestionCheck(BaseModel):
    reason: str = ""
    asks: bool


@register(metric=False)
def asks_first(model: BaseChatModel | None = None) -> Judge:
    """Whether the assistant's first message asks the user for something: 1 or 0.

    Decided by the model, or without a model by rule: there is a sentence that ends in a question mark or requests
    something, and that is not an offer or a courtesy (`collab_agents.tasks.questions.asks`).
    """

    @checked()
    async def judge(conversation: Conversation, task: Task) -> Score:
        return await first_asks(conversation, model)

    return judge


async def first_asks(conversation: Conversation, model: BaseChatModel | None) -> Score:
    texts = conversation.assistant_texts()
    if not texts:
        return Score(None, "the assistant said nothing")
    if model is None:
        return Score(float(asks(texts[0])))
    seed = derive_seed(conversation.seed, "asks_first")
    verdict = await ask(model, conversation.question(render("asks")), QuestionCheck, seed=seed)
    return Score(float(verdict.asks), verdict.reason)
