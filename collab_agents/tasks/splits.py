"""Splitting and ordering tasks by a seed: each task by itself, so that it stays where it is when others come."""

from collections.abc import Iterable

from collab_agents._internal.reasons import nearest
from collab_agents._internal.seeds import derive_seed
from collab_agents.errors import ConfigError
from collab_agents.tasks.task import Task

SPLITS = ("train", "test")


def split_off(tasks: Iterable[Task], split: str, *, test_share: float, seed: int) -> list[Task]:
    """The tasks of "train" or "test"; about `test_share` of all, drawn by the seed and each task's id, are "test"."""
    if split not in SPLITS:
        raise ConfigError(f"there is no split {split!r}: use train or test{nearest(split, SPLITS)}")
    if not 0 < test_share < 1:
        raise ConfigError(f"test_share must be between 0 and 1, got {test_share}")
    cut = test_share * 2**31
    return [task for task in tasks if (derive_seed(seed, "split", task.id) < cut) == (split == "test")]


def shuffled(tasks: Iterable[Task], *, seed: int) -> list[Task]:
    """One task for each id, in an order drawn by the seed: the first hundred are a fair sample."""
    distinct = {task.id: task for task in tasks}
    return sorted(distinct.values(), key=lambda task: derive_seed(seed, "order", task.id))
