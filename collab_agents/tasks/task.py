import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from collab_agents.errors import ConfigError


class Task(BaseModel):
    """What a user wants. Only the simulated user and the judges see it; the assistant never does.

    id: unique in a run; it names the task's line on disk and seeds its branches.
    kind: what sort of task it is ("invitation", "math", ...), for selection and for tables.
    prompt: the whole goal, with everything the user would only say when asked.
    reference: what a perfect outcome is (a document, an answer, unit tests), for judges that compare.
    metadata: anything else. `metadata["agenda"]` holds the facts of an `Agenda`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    kind: str = "task"
    prompt: str = Field(min_length=1)
    reference: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


def check_plain(task: Task) -> None:
    """Raises ConfigError for metadata that is not JSON."""
    try:
        json.dumps(task.metadata, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"task {task.id!r}: metadata is not JSON: {error}") from error
