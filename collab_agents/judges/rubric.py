from langchain_core.language_models import BaseChatModel
from pydantic import ConfigDict, PositiveInt, validate_call

from collab_agents._internal.seeds import derive_seed
from collab_agents.errors import ConfigError
from collab_agents.judges.base import Conversation, Judge, Score, checked
from collab_agents.judges.registry import register
from collab_agents.judges.verdicts import judged
from collab_agents.prompts import render
from collab_agents.tasks import Task


@register()
@validate_call(config=ConfigDict(arbitrary_types_allowed=True))
def rubric(model: BaseChatModel, *, criteria: str | list[str], samples: PositiveInt = 1) -> Judge:
    """How well the conversation meets criteria in your own words, as judged by a model, in [0, 1].

    Args:
        model: The judging model.
        criteria: A text, or a list of points with equal weight.
        samples: How many verdicts to average, each with its own seed. Unusable verdicts are left out; if all are
            unusable, there is no score.
    """
    text = criteria if isinstance(criteria, str) else "\n".join(f"- {point}" for point in criteria)
    if not text.strip():
        raise ConfigError("judge 'rubric': criteria is empty: say what a good conversation is")

    @checked()
    async def judge(conversation: Conversation, task: Task) -> Score:
        prompt = conversation.question(render("rubric", criteria=text, goal=task.goal))
        return await judged(model, prompt, samples=samples, seed=derive_seed(conversation.seed, "rubric", text))

    return judge
