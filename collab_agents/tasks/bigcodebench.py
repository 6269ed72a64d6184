import ast
from collections.abc import Iterator

from collab_agents._internal.rows import DataFiles, Row, Rows, read_rows
from collab_agents.errors import ConfigError
from collab_agents.tasks.splits import shuffled, split_off
from collab_agents.tasks.task import Task

REPO = "bigcode/bigcodebench"
VERSION = "v0.1.2"
COLUMNS = ("task_id", "instruct_prompt", "code_prompt", "canonical_solution", "test", "entry_point", "libs")


def bigcodebench_chat(
    split: str = "train",
    *,
    seed: int = 0,
    data_files: DataFiles | None = None,
    repo: str = REPO,
    test_share: float = 0.55,
) -> list[Task]:
    """Programming together: the goal is BigCodeBench's instruction (v0.1.2), with its unit tests (judge `pass_rate`).

    Args:
        split: "train" or "test". The tasks are split by id.
        seed: Determines the split and the order of the tasks.
        data_files: Local files to read instead of the dataset on the Hub.
        repo: The dataset on the Hub, with the columns task_id, instruct_prompt, code_prompt, canonical_solution, test,
            entry_point and libs.
        test_share: The share of tasks for testing (the published evaluation keeps 55%).

    Returns:
        The tasks, with the canonical solution as the reference.

    Raises:
        ConfigError: If the dataset cannot be read, a row is malformed, or the split is unknown or empty.
    """
    rows = read_rows(repo, columns=COLUMNS, split=VERSION, data_files=data_files)
    chosen = split_off(shuffled(_tasks(rows), seed=seed), split, test_share=test_share, seed=seed)
    if not chosen:
        raise ConfigError(f"{rows.name}: the split {split!r} of its {len(rows)} problems is empty")
    return chosen


def _tasks(rows: Rows) -> Iterator[Task]:
    for row in rows:
        start = row.text("code_prompt")
        yield Task(
            id=row.text("task_id"),
            kind="code",
            goal=row.text("instruct_prompt"),
            reference=start + row.text("canonical_solution"),
            metadata={
                "tests": row.text("test"),
                "entry_point": row.text("entry_point"),
                "code_prompt": start,
                "libraries": _libraries(row),
            },
        )


def _libraries(row: Row) -> list[str]:
    """Parse the column, which is a list in Python syntax."""
    value = row.values["libs"]
    try:
        names = ast.literal_eval(value) if isinstance(value, str) else value
    except (SyntaxError, ValueError) as error:
        raise row.error("libs", "expected a list of module names") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise row.error("libs", "expected a list of module names")
    return names
