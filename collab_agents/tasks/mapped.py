"""Anybody's dataset as tasks, by naming its columns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from collab_agents.tasks.rows import BUILDERS, Row, read_rows
from collab_agents.tasks.task import Task


class Columns(BaseModel):
    """Which column of a dataset is what. The rest is passed over.

    prompt: the goal. reference: texts or numbers; null is no reference. id: texts or numbers; by default the row's
    number. kind: by default "task". metadata: columns to keep under their names, or {key: column}.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str
    reference: str | None = None
    id: str | None = None
    kind: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)

    @field_validator("metadata", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return {name: name for name in value} if isinstance(value, list) else value

    def needed(self) -> list[str]:
        one = [self.prompt, self.reference, self.id, self.kind]
        return [name for name in one if name is not None] + list(self.metadata.values())


def read_mapped(source: str, columns: Columns, *, split: str = "train", **options: Any) -> Iterator[Task]:
    """Tasks one by one from JSONL, JSON, CSV or Parquet files, a dataset on the Hub, or a folder of one.

    split: of a dataset on the Hub or in a folder; files have none.
    options: of `datasets.load_dataset`, such as `name` and `revision`.

    Raises ConfigError, which names the dataset, the row and the column.
    """
    is_file = Path(source).suffix in BUILDERS
    rows = read_rows(source, columns=columns.needed(), split=split, data_files=source if is_file else None, **options)
    seen: dict[str, int] = {}
    for row in rows:
        task = _task(row, columns, Path(source).stem)
        if task.id in seen:
            raise row.error(columns.id or "", f"row {seen[task.id]} has the same id")
        seen[task.id] = row.number
        yield task


def _task(row: Row, columns: Columns, name: str) -> Task:
    given = row.text_or_none(columns.id) if columns.id else f"{name}-{row.number}"
    if not given:
        raise row.error(columns.id or "", "an id is needed")
    return Task(
        id=given,
        kind=(row.text_or_none(columns.kind) if columns.kind else None) or "task",
        prompt=row.text(columns.prompt),
        reference=row.text_or_none(columns.reference) if columns.reference else None,
        metadata={key: row.values[column] for key, column in columns.metadata.items()},
    )
