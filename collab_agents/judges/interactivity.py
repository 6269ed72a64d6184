from langchain_core.language_models import BaseChatModel
from pydantic import BaseModel, Field

from collab_agents.errors import UnusableReply
from collab_agents.judges.base import Conversation, Judge, Score
from collab_agents.prompts import render
from collab_agents.seeds import derive_seed
from collab_agents.structured import ask
from collab_agents.tasks import Task


class Verdict(BaseModel):
    reason: str = ""
    interactivity: float = Field(ge=0, le=1)


def interactivity(model: BaseChatModel) -> Judge:
    """How well the assistant collaborates, as judged by a model, in [0, 1] (CollabLLM's R_LLM).

    A model that gives no usable verdict within its attempts gives "no score".
    """

    async def judge(conversation: Conversation, task: Task) -> Score:
        prompt = conversation.question(render("interactivity"))
        try:
            verdict = await ask(model, prompt, Verdict, seed=derive_seed(conversation.seed, "interactivity"))
        except UnusableReply as error:
            return Score(None, str(error))
        return Score(verdict.interactivity, verdict.reason)

    return judge
