from functools import cache
from typing import Any

from langchain_core.language_models import BaseChatModel

from collab_agents.errors import UnusableReply
from collab_agents.judges.base import Conversation, Judge, Score
from collab_agents.tasks import Task


def bleu(model: BaseChatModel, *, kind: str = "document") -> Judge:
    """sacrebleu's sentence BLEU of the finished artefact against the task's reference, scaled to [0, 1].

    The artefact is distilled from the conversation by the model (see `Conversation.artefact`); `kind` tells the
    model what it is. A task without a reference, or a model that distils nothing usable, gives "no score".
    """

    async def judge(conversation: Conversation, task: Task) -> Score:
        if task.reference is None:
            return Score(None, f"task {task.id!r} has no reference to compare with")
        try:
            artefact = await conversation.artefact(model, kind)
        except UnusableReply as error:
            return Score(None, str(error))
        if not artefact.strip():
            return Score(0.0, "the conversation produced nothing")
        result = _metric().sentence_score(artefact, [task.reference])
        return Score(min(result.score / 100, 1.0), f"{len(artefact.split())} words compared")

    return judge


@cache
def _metric() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True)
