from collab_agents.judges.base import Conversation, Judge, Score
from collab_agents.tasks import Agenda, Task
from collab_agents.tasks.agenda import is_draft


def fact_coverage() -> Judge:
    """The share of the agenda's facts that stand in the final text, in [0, 1]. Needs no model.

    The final text is the assistant's last draft (a message with 20 words or more besides its questions); a
    conversation without one covers nothing. A task without an agenda gets "no score".
    """

    async def judge(conversation: Conversation, task: Task) -> Score:
        agenda = Agenda.of(task)
        if agenda is None:
            return Score(None, f"task {task.id!r} has no metadata.agenda to cover")
        final = next((text for text in reversed(conversation.assistant_texts()) if is_draft(text)), "")
        missing = [fact.name for fact in agenda.missing(final)]
        share = 1 - len(missing) / len(agenda.facts)
        return Score(share, f"missing: {', '.join(missing)}" if missing else "every fact is there")

    return judge
