from typing import Literal

from langchain_core.language_models import BaseChatModel
from pydantic import ConfigDict, validate_call

from collab_agents.errors import ConfigError
from collab_agents.judges._review.faults import Fault
from collab_agents.judges._review.model import faults_by_model
from collab_agents.judges._review.rules import faults_by_rule
from collab_agents.judges._review.said import exchange_of
from collab_agents.judges.base import Conversation, Judge, Score, checked
from collab_agents.judges.registry import register
from collab_agents.tasks import Agenda, Task


@register(metric=False)
@validate_call(config=ConfigDict(arbitrary_types_allowed=True))
def user_faults(model: BaseChatModel | None = None, *, by: Literal["rule", "model"] | None = None) -> Judge:
    """Whether the simulated user played without a fault: 1 or 0. It says nothing of the assistant.

    The kinds of fault are those of `collab_agents.judges.FaultKind`. They are in the score's `faults`, and in its
    reason with the message and why. Of a future, only the messages of the future are reviewed. Give it the weight 0,
    unless the reward is to depend on the user. `Lookahead.drop_faulty` leaves futures with faults out of means.

    Args:
        model: For tasks without an agenda, and with "model".
        by: "rule" reads the task's agenda and the persona, "model" asks the model. By default, a task with an agenda
            is reviewed by rule, and any other by the model.

    Raises:
        ConfigError: For "model" without a model.
    """
    if by == "model" and model is None:
        raise ConfigError("judge 'user_faults': by: model needs a model")

    def by_rule(task: Task) -> bool:
        return by == "rule" or (by is None and (model is None or "agenda" in task.metadata))

    def problem_with(task: Task) -> str | None:
        problem = Agenda.problem_in(task) if by_rule(task) else None
        return problem and f"{problem}; to review the user of tasks without an agenda, give user_faults a model"

    @checked(problem_with, reviews_user=True)
    async def judge(conversation: Conversation, task: Task) -> Score:
        exchange = exchange_of(conversation)
        if not exchange.reviewed and not exchange.ended:
            return Score(1.0, "the user said nothing")
        if by_rule(task):
            agenda = Agenda.of(task)
            assert agenda is not None
            found = faults_by_rule(agenda, conversation.persona, task.reference, exchange)
        else:
            assert model is not None
            found = await faults_by_model(model, conversation, task, exchange)
        kinds = tuple(dict.fromkeys(fault.kind for fault in found))
        return Score(float(not found), "; ".join(map(_line, found)), kinds)

    return judge


def _line(fault: Fault) -> str:
    return f"{fault.kind} in the user's message {fault.message}: {fault.reason}"
