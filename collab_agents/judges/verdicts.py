"""Ask a model for a verdict in [0, 1], once or several times."""

import asyncio

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from pydantic import AliasChoices, BaseModel, Field

from collab_agents._internal.seeds import derive_seed
from collab_agents.errors import UnusableReply
from collab_agents.judges.base import Score
from collab_agents.models.ask import ask


class Rating(BaseModel):
    reason: str = ""
    score: float = Field(ge=0, le=1, validation_alias=AliasChoices("score", "interactivity"))


async def judged(
    model: BaseChatModel, prompt: list[BaseMessage], shape: type[Rating] = Rating, *, samples: int, seed: int
) -> Score:
    """Ask for verdicts concurrently, each with its own seed, and return the mean of the usable ones.

    Raises UnusableReply if none is usable, ModelError if the model cannot be called.
    """
    seeds = [derive_seed(seed, sample) if sample else seed for sample in range(samples)]
    answers = await asyncio.gather(*(ask(model, prompt, shape, seed=one) for one in seeds), return_exceptions=True)
    verdicts = [answer for answer in answers if isinstance(answer, Rating)]
    problems = [answer for answer in answers if isinstance(answer, BaseException)]
    for problem in problems:
        if not verdicts or not isinstance(problem, UnusableReply):
            raise problem
    if len(verdicts) == 1:
        return Score(verdicts[0].score, verdicts[0].reason)
    reasons = "; ".join(f"{verdict.score:g} ({verdict.reason})" for verdict in verdicts)
    return Score(sum(verdict.score for verdict in verdicts) / len(verdicts), reasons)
