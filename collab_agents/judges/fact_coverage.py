from collab_agents.judges.base import Conversation, Judge, Score, checked
from collab_agents.judges.registry import register
from collab_agents.tasks import Agenda, Task
from collab_agents.tasks.questions import is_draft


@register()
def fact_coverage() -> Judge:
    """The share of the agenda's facts that the final text contains, in [0, 1]. Needs no model.

    The final text is the assistant's last draft: a message with at least 20 words besides its questions. A conversation
    without a draft covers nothing. Tasks without an agenda get no score.
    """

    @checked(Agenda.problem_in)
    async def judge(conversation: Conversation, task: Task) -> Score:
        agenda = Agenda.of(task)
        assert agenda is not None
        final = next((text for text in reversed(conversation.assistant_texts()) if is_draft(text)), "")
        missing = [fact.name for fact in agenda.missing(final)]
        share = 1 - len(missing) / len(agenda.facts)
        return Score(share, f"missing: {', '.join(missing)}" if missing else "every fact is there")

    return judge
