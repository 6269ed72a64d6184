"""Any dataset as tasks, by naming its columns."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from collab_agents._internal.rows import BUILDERS, DataFiles, Row, read_rows, short_hash
from collab_agents.tasks.task import Task, goal_for_prompt


class Columns(BaseModel):
    """Which column of a dataset is what. Other columns are ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    goal: str
    """The column of goals."""
    reference: str | None = None
    """The column of references, texts or numbers; null is no reference."""
    id: str | None = None
    """The column of ids, texts or numbers; by default an id is a hash of its row."""
    kind: str | None = None
    """The column of kinds; by default every kind is "task"."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """Columns to keep in the metadata: a list of names, or {key: column}."""

    @model_validator(mode="before")
    @classmethod
    def _read_prompt(cls, data: object) -> object:
        return goal_for_prompt(data)

    @field_validator("metadata", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return {name: name for name in value} if isinstance(value, list) else value

    def needed(self) -> list[str]:
        one = [self.goal, self.reference, self.id, self.kind]
        return [name for name in one if name is not None] + list(self.metadata.values())


def read_mapped(
    source: str,
    columns: Columns,
    *,
    split: str = "train",
    data_files: DataFiles | None = None,
    name: str | None = None,
    revision: str | None = None,
) -> Iterator[Task]:
    """Read tasks one by one from JSONL, JSON, CSV or Parquet files, or a dataset on the Hub or in a folder.

    split: of a dataset on the Hub or in a folder; files have none. data_files: local files instead of the dataset.
    name, revision: the configuration and the version of a dataset on the Hub.

    Raises ConfigError, which names the dataset, the row and the column.
    """
    if Path(source).suffix.lower() in BUILDERS and data_files is None:
        data_files = source
    options = {key: value for key, value in (("name", name), ("revision", revision)) if value is not None}
    rows = read_rows(source, columns=columns.needed(), split=split, data_files=data_files, **options)
    seen: Counter[str] = Counter()
    numbers: dict[str, int] = {}
    for row in rows:
        task = _task(row, columns, Path(source).stem, seen)
        if task.id in numbers:
            raise row.error(columns.id or "", f"row {numbers[task.id]} has the same id")
        numbers[task.id] = row.number
        yield task


def _task(row: Row, columns: Columns, name: str, seen: Counter[str]) -> Task:
    goal = row.text_or_none(columns.goal)
    if not goal or not goal.strip():
        raise row.error(columns.goal, "expected a text")
    reference = row.text_or_none(columns.reference) if columns.reference else None
    metadata = {key: row.json(column) for key, column in columns.metadata.items()}
    if columns.id:
        given = row.text_or_none(columns.id)
        if given is None:
            raise row.error(columns.id, "expected an id")
    else:
        # Of the contents, so that a row keeps its id when others come before it.
        given = f"{name}-{short_hash(goal, reference or '', json.dumps(metadata, sort_keys=True))}"
        seen[given] += 1
        given += f"-{seen[given]}" if seen[given] > 1 else ""
    kind = row.text_or_none(columns.kind) if columns.kind else None
    return Task(id=given, kind=kind or "task", goal=goal, reference=reference, metadata=metadata)
