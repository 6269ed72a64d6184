"""Tables of the judges, task sets and personas, made from the functions' signatures and docstrings."""

import inspect
from collections.abc import Callable

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from collab_agents.judges import JUDGES
from collab_agents.personas import PERSONAS, Persona
from collab_agents.tasks import TASK_SETS


def print_judges() -> None:
    table = _table("judge", "what it scores", "model", "options")
    for name, judge in JUDGES.items():
        model = "needed" if judge.needs_model else "optional" if judge.takes_model else "none"
        table.add_row(name, _what(judge.make), model, _options(judge.make, besides={"model"}))
    _print(table)


def print_tasks() -> None:
    table = _table("tasks", "what they are", "options")
    for name, make in TASK_SETS.items():
        table.add_row(name, _what(make), _options(make, besides={"split", "seed"}))
    table.add_row(
        "<file>.jsonl", Text("Your own tasks, one per line: id, goal; optionally kind, reference, metadata."), ""
    )
    table.add_row(
        "<dataset>",
        Text("JSONL, JSON, CSV or Parquet files, or a dataset on the Hub (owner/name), by naming its columns."),
        "columns: {goal, reference, id, kind, metadata}; options: name, revision",
    )
    _print(table)


def print_personas() -> None:
    fields = [name for name in Persona.model_fields if name not in ("name", "background", "instructions")]
    table = _table("persona", "who they are", *fields)
    for persona in PERSONAS.values():
        table.add_row(persona.name, Text(persona.background), *(str(getattr(persona, field)) for field in fields))
    _print(table)


def _table(*columns: str) -> Table:
    table = Table(show_lines=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table) -> None:
    console = Console()
    # Without a terminal, the width is not limited, and lines that are not wrapped can be searched.
    Console(width=console.width if console.is_terminal else 200).print(table)


def _what(make: Callable[..., object]) -> Text:
    summary = (inspect.getdoc(make) or "").partition("\n")[0]
    sentence, period, _ = summary.partition(". ")
    return Text(sentence + period.strip())


def _options(make: Callable[..., object], *, besides: set[str]) -> Text:
    options = [
        f"{name} (needed)" if option.default is option.empty else f"{name}: {_shown(option.default)}"
        for name, option in inspect.signature(make).parameters.items()
        if name not in besides
    ]
    return Text("\n".join(options))


def _shown(value: object) -> str:
    if isinstance(value, BaseModel):
        return "{" + ", ".join(f"{key}: {one:g}" for key, one in value) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
