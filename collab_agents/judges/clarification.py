from langchain_core.language_models import BaseChatModel

from collab_agents.judges.asks_first import first_asks
from collab_agents.judges.base import Conversation, Judge, Score, checked
from collab_agents.judges.registry import register
from collab_agents.tasks import Task


@register()
def clarification(model: BaseChatModel | None = None) -> Judge:
    """Whether the first reply asks where the question is ambiguous, and answers where it is clear: 1 or 0.

    The task's `metadata["ambiguous"]` (true or false) says which it is. Whether the message asks is decided as in
    `asks_first`, by the model or by rule. The scorecard reports the paper's macro accuracy and F1 (section 5.4).
    """

    @checked(_problem_with, clarifies=True)
    async def judge(conversation: Conversation, task: Task) -> Score:
        asked = await first_asks(conversation, model)
        if asked.value is None:
            return asked
        ambiguous: bool = task.metadata["ambiguous"]
        what = f"{'asked' if asked.value else 'answered'}, and the question is {'ambiguous' if ambiguous else 'clear'}"
        return Score(float(bool(asked.value) == ambiguous), f"{what}; {asked.reason}" if asked.reason else what)

    return judge


def _problem_with(task: Task) -> str | None:
    if isinstance(task.metadata.get("ambiguous"), bool):
        return None
    return f"task {task.id!r} needs metadata.ambiguous (true or false), which says whether its question is ambiguous"
