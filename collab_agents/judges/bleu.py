from functools import cache
from typing import TYPE_CHECKING, Literal

from langchain_core.language_models import BaseChatModel
from pydantic import ConfigDict, validate_call

from collab_agents.judges.base import Conversation, Judge, Score, checked, needs_reference
from collab_agents.judges.registry import register
from collab_agents.tasks import Task

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU


@register()
@validate_call(config=ConfigDict(arbitrary_types_allowed=True))
def bleu(
    model: BaseChatModel, *, kind: str = "document", tokenize: Literal["13a", "intl", "zh", "char"] = "13a"
) -> Judge:
    """sacrebleu's sentence BLEU of the finished artefact against the task's reference, in [0, 1].

    There is no score if the task has no reference, or the model extracts nothing usable.

    Args:
        model: Extracts the artefact from the conversation; see `Conversation.artefact`.
        kind: What the artefact is, for the model.
        tokenize: How sacrebleu splits words: "13a" for languages with spaces, "intl" for punctuation beyond ASCII, "zh"
            for Chinese, "char" for single characters.
    """

    metric = _metric(tokenize)

    @checked(needs_reference)
    async def judge(conversation: Conversation, task: Task) -> Score:
        artefact = await conversation.artefact(model, kind)
        if not artefact.strip():
            return Score(0.0, "the conversation produced nothing")
        result = metric.sentence_score(artefact, [task.reference])
        return Score(min(result.score / 100, 1.0), f"{len(artefact.split())} words compared")

    return judge


@cache
def _metric(tokenize: str) -> "BLEU":
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True, tokenize=tokenize)
