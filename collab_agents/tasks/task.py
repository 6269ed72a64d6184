import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from collab_agents.errors import ConfigError


class Task(BaseModel):
    """What a user wants. Only the simulated user and the judges see it; the assistant never does.

    Example:
        task = Task(id="trip-1", goal="Plan a weekend in Ghent for two, by train, below 400 euros.")
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    """Identifies the task. It is unique in a run, names the task's line on disk and seeds its branches."""
    kind: str = "task"
    """The kind of task ("invitation", "math", ...), for selection and tables."""
    goal: str = Field(min_length=1)
    """The whole goal, including everything that the user would say only when asked."""
    reference: str | None = None
    """An ideal outcome (a document, an answer, a solution), for judges that compare."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Anything else, as JSON values. `metadata["agenda"]` holds the facts of an `Agenda`."""

    @model_validator(mode="before")
    @classmethod
    def _read_prompt(cls, data: object) -> object:
        return goal_for_prompt(data)


def goal_for_prompt(data: object) -> object:
    """Rename `prompt`, the name in earlier versions, to `goal` in the fields of a record."""
    if isinstance(data, dict) and "prompt" in data and "goal" not in data:
        return {"goal" if key == "prompt" else key: value for key, value in data.items()}
    return data


def check_plain(task: Task) -> None:
    """Raise ConfigError if the metadata is not JSON."""
    try:
        json.dumps(task.metadata, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"task {task.id!r}: metadata is not JSON: {error}") from error
