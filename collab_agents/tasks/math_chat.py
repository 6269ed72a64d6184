from collections.abc import Iterator

from collab_agents._internal.rows import DataFiles, Rows, read_rows, short_hash
from collab_agents.errors import ConfigError
from collab_agents.tasks.splits import shuffled
from collab_agents.tasks.task import Task

REPO = "lighteval/MATH-Hard"
LEVEL = "Level 5"


def math_chat(
    split: str = "train", *, seed: int = 0, data_files: DataFiles | None = None, repo: str = REPO
) -> list[Task]:
    """Solving a problem together: MATH's hardest level, with the solution as the reference (judge `accuracy`).

    Args:
        split: One of the dataset's own splits: "train" or "test".
        seed: Determines the order of the tasks.
        data_files: Local files to read instead of the dataset on the Hub, for each split.
        repo: The dataset on the Hub, with the columns problem, level, type and solution.

    Returns:
        The tasks.

    Raises:
        ConfigError: If the dataset cannot be read, a row is malformed, or the split has no problem of level 5.
    """
    rows = read_rows(repo, columns=["problem", "level", "type", "solution"], split=split, data_files=data_files)
    tasks = shuffled(_tasks(rows), seed=seed)
    if not tasks:
        raise ConfigError(f"{rows.name}: the split {split!r} is empty: none of {len(rows)} problems has {LEVEL}")
    return tasks


def _tasks(rows: Rows) -> Iterator[Task]:
    for row in rows:
        if row.text("level") != LEVEL:
            continue
        problem = row.text("problem")
        yield Task(
            id=f"math-{short_hash(problem)}",
            kind="math",
            goal=problem,
            reference=row.text("solution"),
            metadata={"type": row.text("type"), "level": LEVEL},
        )
