"""Tasks to play: invitations to a party."""

from collections.abc import Iterator
from typing import Any

from collab_agents.tasks import Task

DRAFT = (
    "You are warmly invited to a party on Saturday 14 June at the Blue Barn. Please come all in white, bring good "
    "spirits, and let us know soon whether we may count on you."
)
"""A piece of work that holds every fact of `party`."""


def party(task_id: str = "party") -> Task:
    """A task with three facts."""
    facts: list[dict[str, Any]] = [
        {"name": "date", "value": "Saturday 14 June", "tell": "It is on Saturday 14 June.", "ask": ["when", "day"]},
        {"name": "place", "value": "the Blue Barn", "tell": "It is at the Blue Barn.", "ask": ["where", "venue"]},
        {"name": "dress code", "value": "all in white", "tell": "Come all in white.", "ask": ["wear", "dress"]},
    ]
    return Task(
        id=task_id,
        kind="invitation",
        goal="You want an invitation with the date, the place and the dress code.",
        reference="You are invited on Saturday 14 June to the Blue Barn. Please come all in white.",
        metadata={"agenda": {"opening": "Can you write an invitation?", "facts": facts}},
    )


def parties(count: int) -> Iterator[Task]:
    for index in range(count):
        task = party(f"party-{index}")
        agenda = task.metadata["agenda"] | {"opening": f"Invitation number {index}, please."}
        yield task.model_copy(update={"metadata": {"agenda": agenda}})
