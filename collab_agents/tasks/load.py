"""Loading tasks: a set by its name, a JSONL file of one `Task` per line, or any dataset."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ConfigDict as Options
from pydantic import ValidationError, validate_call

from collab_agents._internal.reasons import first_problem, nearest
from collab_agents._internal.rows import parsed_lines
from collab_agents.errors import ConfigError
from collab_agents.tasks.abg_coqa import abg_coqa
from collab_agents.tasks.bigcodebench import bigcodebench_chat
from collab_agents.tasks.mapped import Columns, read_mapped
from collab_agents.tasks.math_chat import math_chat
from collab_agents.tasks.mediumdocedit import mediumdocedit_chat
from collab_agents.tasks.offline import offline_tasks
from collab_agents.tasks.task import Task

TASK_SETS: dict[str, Callable[..., Sequence[Task]]] = {
    "offline": offline_tasks,
    "mediumdocedit-chat": mediumdocedit_chat,
    "bigcodebench-chat": bigcodebench_chat,
    "math-chat": math_chat,
    "abg-coqa": abg_coqa,
}


_NOT_OPTIONS = {"source", "columns", "split", "seed"}


def load_tasks(
    source: str | Path,
    *,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    columns: Columns | Mapping[str, object] | None = None,
    **options: Any,
) -> Iterator[Task]:
    """Load tasks one by one.

    Args:
        source: The name of a set in `TASK_SETS`, a JSONL file of one `Task` per line, or, with `columns`, JSONL, JSON,
            CSV or Parquet files, or a dataset on the Hub or in a folder.
        split: The split of a set or a dataset.
        limit: The most tasks to load.
        seed: Of a set that shuffles its tasks.
        columns: Which column of the dataset is what; see `Columns`.
        **options: The set's options.

    Raises:
        ConfigError: For the first malformed task, with the set or file, the line or row, and the field or column.

    Example:
        tasks = load_tasks("questions.csv", columns={"goal": "question", "reference": "answer"})
    """
    return islice(_tasks(str(source), split, seed, columns, options), limit)


def _tasks(
    source: str, split: str, seed: int, columns: Columns | Mapping[str, object] | None, options: dict[str, Any]
) -> Iterator[Task]:
    if source in TASK_SETS:
        if columns is not None:
            raise ConfigError(f"tasks {source!r}: a set has its own columns")
        yield from _of_set(source, split, seed, options)
    elif columns is not None:
        try:
            named = columns if isinstance(columns, Columns) else Columns.model_validate(columns)
        except ValidationError as error:
            raise ConfigError(f"tasks {source!r}: columns: {first_problem(error)}") from error
        known = [name for name in inspect.signature(read_mapped).parameters if name not in _NOT_OPTIONS]
        _check_options(source, options, known)
        yield from read_mapped(source, named, split=split, **options)
    elif options:
        raise ConfigError(f"tasks {source!r}: a file of tasks has no options, got {', '.join(options)}")
    else:
        yield from read_jsonl(source)


def _of_set(name: str, split: str, seed: int, options: Mapping[str, object]) -> Sequence[Task]:
    make = TASK_SETS[name]
    known = [option for option in inspect.signature(make).parameters if option not in _NOT_OPTIONS]
    _check_options(name, options, known)
    try:
        return validate_call(config=Options(arbitrary_types_allowed=True))(make)(split, seed=seed, **options)
    except ValidationError as error:
        raise ConfigError(f"tasks {name!r}: {first_problem(error)}") from error


def _check_options(name: str, options: Iterable[str], known: Sequence[str]) -> None:
    for option in options:
        if option not in known:
            has = f"it has {', '.join(known)}{nearest(option, known)}" if known else "it has none"
            raise ConfigError(f"tasks {name!r}: there is no option {option!r}: {has}")


def read_jsonl(path: str | Path) -> Iterator[Task]:
    """The tasks of a JSONL file; blank lines are passed over."""
    try:
        file = open(path, "rb")  # noqa: SIM115  (closed by the with below; opened here for its error)
    except OSError as error:
        hint = f"give one of {', '.join(TASK_SETS)}, a JSONL file, or a dataset with columns"
        raise ConfigError(
            f"tasks {str(path)!r}: {error.strerror or error}; {hint}{nearest(str(path), TASK_SETS)}"
        ) from error
    if Path(path).suffix.lower() in (".csv", ".parquet"):
        file.close()
        raise ConfigError(f"tasks {str(path)!r}: set columns to map its columns to a task: columns: {{goal: ...}}")
    lines: dict[str, int] = {}
    with file:
        for number, task in parsed_lines(path, file, Task):
            if task.id in lines:
                raise ConfigError(f"{path}:{number}: the id {task.id!r} is taken by line {lines[task.id]}")
            lines[task.id] = number
            yield task
