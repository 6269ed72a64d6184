"""Reading tasks from JSONL files, one `Task` a line, and from the sets that the library ships."""

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from collab_agents.errors import ConfigError, first_problem
from collab_agents.tasks.offline import offline_tasks
from collab_agents.tasks.task import Task


def load_tasks(source: str | Path, *, split: str = "train", limit: int | None = None, seed: int = 0) -> Iterator[Task]:
    """Tasks one by one: from the set named "offline" (with its `split` and `seed`), or from a JSONL file.

    Raises ConfigError, which names the file and the line, for a line that is not a task or an id that came before.
    """
    tasks = iter(offline_tasks(split, seed=seed)) if str(source) == "offline" else read_jsonl(source)
    for index, task in enumerate(tasks):
        if limit is not None and index >= limit:
            return
        yield task


def read_jsonl(path: str | Path) -> Iterator[Task]:
    """The tasks of a JSONL file; blank lines are passed over."""
    try:
        file = open(path, "rb")  # noqa: SIM115  (closed by the with below; opened here for its error)
    except OSError as error:
        raise ConfigError(f"tasks {str(path)!r}: {error.strerror or error}; give 'offline' or a JSONL file") from error
    lines: dict[str, int] = {}
    with file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                task = Task.model_validate(json.loads(line))
            except UnicodeDecodeError as error:
                raise ConfigError(f"{path}:{number}: not UTF-8: {error.reason} at byte {error.start}") from error
            except json.JSONDecodeError as error:
                raise ConfigError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}") from error
            except ValidationError as error:
                raise ConfigError(f"{path}:{number}: {first_problem(error)}") from error
            if task.id in lines:
                raise ConfigError(f"{path}:{number}: the id {task.id!r} is taken by line {lines[task.id]}")
            lines[task.id] = number
            yield task
