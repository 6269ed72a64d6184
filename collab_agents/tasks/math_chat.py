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
    """Solving a problem together: MATH's hardest level, the reference its solution (judge `accuracy`).

    The splits are the dataset's own, train and test.

    repo, data_files: where the problems come from, for each split; columns problem, level, type, solution.
    """
    rows = read_rows(repo, columns=["problem", "level", "type", "solution"], split=split, data_files=data_files)
    tasks = shuffled(_tasks(rows), seed=seed)
    if not tasks:
        raise ConfigError(f"{rows.name}: the split {split!r} is empty: none of {len(rows)} problems is of {LEVEL}")
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
