from langchain_core.language_models import BaseChatModel
from pydantic import AliasChoices, ConfigDict, Field, PositiveInt, validate_call

from collab_agents._internal.seeds import derive_seed
from collab_agents.judges.base import Conversation, Judge, Score, checked
from collab_agents.judges.registry import register
from collab_agents.judges.verdicts import Rating, judged
from collab_agents.prompts import render
from collab_agents.tasks import Task


class InteractivityRating(Rating):
    score: float = Field(ge=0, le=1, validation_alias=AliasChoices("interactivity", "score"))


@register(metric=False)
@validate_call(config=ConfigDict(arbitrary_types_allowed=True))
def interactivity(model: BaseChatModel, *, samples: PositiveInt = 1) -> Judge:
    """How well the assistant collaborates, as judged by a model, in [0, 1] (CollabLLM's R_LLM).

    Args:
        model: The judging model.
        samples: How many verdicts to average, each with its own seed. Unusable verdicts are left out; if all are
            unusable, there is no score.
    """

    @checked(collaboration=True)
    async def judge(conversation: Conversation, task: Task) -> Score:
        seed = derive_seed(conversation.seed, "interactivity")
        question = conversation.question(render("interactivity"))
        return await judged(model, question, InteractivityRating, samples=samples, seed=seed)

    return judge
