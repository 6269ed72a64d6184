from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from langchain_core.language_models import BaseChatModel
from pydantic import BaseModel, ConfigDict, PositiveFloat, field_validator, validate_call

from collab_agents._internal.seeds import derive_seed
from collab_agents.errors import ConfigError
from collab_agents.judges._math.worker import WorkerPool, WorkerTimeout
from collab_agents.judges.base import Conversation, Judge, Score, checked, needs_reference
from collab_agents.judges.registry import register
from collab_agents.models.ask import ask
from collab_agents.prompts import render
from collab_agents.tasks import Task


class AnswerCheck(BaseModel):
    reason: str = ""
    correct: bool

    @field_validator("correct", mode="before")
    @classmethod
    def _exact(cls, value: object) -> object:
        """Read yes and no in capitals and with spaces around them too, which pydantic does not."""
        return value.strip().casefold() if isinstance(value, str) else value


@register()
@validate_call(config=ConfigDict(arbitrary_types_allowed=True))
def accuracy(
    model: BaseChatModel | None = None, *, by: Literal["math", "model"] = "math", seconds: PositiveFloat = 10.0
) -> Judge:
    """Whether the conversation's final answer is the task's reference: 1 or 0.

    A conversation without an answer gets 0, and so does an answer that takes too long to evaluate. There is no score if
    the reference cannot be parsed or takes too long, or if the model gives no usable verdict.

    Args:
        model: Required with "model". With "math" it is optional, and then extracts the final answer from the
            conversation first, which suits free conversation. Without a model, the answer is the last one that the
            assistant marks (`\\boxed{}`, "the answer is") or corrects, or else the last one it gives; the system prompt
            should ask for marked answers.
        by: "math" compares as mathematics, with math-verify (extra `benchmarks`). "model" asks the model whether the
            assistant's final answer agrees with the reference, for open questions.
        seconds: For evaluating one answer as mathematics.
    """
    if by == "model":
        if model is None:
            raise ConfigError("judge 'accuracy': by: model needs a model")
        return _by_model(model)
    if find_spec("math_verify") is None:
        raise ConfigError("judge 'accuracy' needs math-verify: pip install 'collab-agents[benchmarks]'")

    @checked(needs_reference)
    async def judge(conversation: Conversation, task: Task) -> Score:
        texts = conversation.assistant_texts()
        if model is not None:
            answer = await conversation.artefact(model, "final answer to the problem")
            texts = [f"\\boxed{{{answer}}}" if answer and "\\boxed" not in answer else answer]
        try:
            correct, reason = await _workers(seconds).ask({"reference": task.reference, "messages": texts})
        except WorkerTimeout:
            return await _at_fault(task.reference or "", seconds)
        return Score(None if correct is None else float(correct), reason)

    return judge


async def _at_fault(reference: str, seconds: float) -> Score:
    """Return the score where a comparison took too long: 0, unless the reference alone takes as long."""
    try:
        await _workers(seconds).ask({"reference": reference, "messages": ["\\boxed{0}"]})
    except WorkerTimeout:
        return Score(None, f"the reference {reference[:80]!r} takes longer than {seconds:g} s to evaluate")
    return Score(0.0, f"the answer takes longer than {seconds:g} s to evaluate")


def _by_model(model: BaseChatModel) -> Judge:
    @checked(needs_reference)
    async def judge(conversation: Conversation, task: Task) -> Score:
        question = render("accuracy", goal=task.goal, reference=task.reference or "")
        seed = derive_seed(conversation.seed, "accuracy")
        verdict = await ask(model, conversation.question(question), AnswerCheck, seed=seed)
        return Score(float(verdict.correct), verdict.reason)

    return judge


@cache
def _workers(seconds: float) -> WorkerPool:
    return WorkerPool(Path(__file__).parent / "_math" / "mathematics.py", timeout=seconds)
