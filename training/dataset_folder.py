"""A dataset on disk: Parquet files and a dataset card, as the Hub and `datasets` read them."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import DatasetDict, concatenate_datasets
from huggingface_hub import HfApi

from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.training.datasets import check_share, empty_side_error, is_held_out, load_splits
from collab_agents.training.hub import pushing
from collab_agents.training.made import Made, Spread
from collab_agents.training.on_disk import Seen

COLUMNS = {
    "sft": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt", "goal"),
}
"""The columns that each kind of dataset must have."""

HELD_OUT = ("eval", "validation", "test")
"""Splits that are never trained on; the first one that exists is used for evaluation."""

_ROWS = 1_000
"""Rows that are read at once."""
_ROW_GROUP = 16 * 2**20
"""Bytes in memory after which a row group is written."""


def save_rows(
    made: Made, out: str | Path, *, eval_share: float = 0.0, seed: int = 0, how: Mapping[str, object]
) -> dict[str, int]:
    """Write rows as a dataset, split by task as `split_by_task` does, without holding them in memory.

    Args:
        made: The rows.
        out: The folder.
        eval_share: The approximate share of tasks in `eval`, in [0, 1).
        seed: The seed of the draw of tasks.
        how: How the dataset was made (sources and options), for the card.

    Returns:
        The number of rows of each split.

    Raises:
        RunDirectoryError: If the folder is not empty.
        ConfigError: If `eval_share` is outside [0, 1), or a split would be empty.

    Example:
        made = preference_rows(read_all(["runs/first"]), minimum_gap=0.1)
        save_rows(made, "data/pairs", eval_share=0.1, how={"minimum_gap": 0.1})
    """
    check_share(eval_share)
    with _drafted(Path(out)) as draft:
        splits = {name: _Split(draft, name) for name in (("train", "eval") if eval_share else ("train",))}
        for table in made.tables():
            held = np.array([is_held_out(task, eval_share, seed) for task in table["task_id"].to_pylist()], dtype=bool)
            for name, split in splits.items():
                split.write(table.filter(held if name == "eval" else ~held))
        for split in splits.values():
            split.close()
        if eval_share and not all(split.rows for split in splits.values()):
            raise empty_side_error(eval_share, sum(len(split.tasks) for split in splits.values()))
        (draft / "README.md").write_text(card(splits, made, how), encoding="utf-8")
    return {name: split.rows for name, split in splits.items()}


def save_dataset(data: DatasetDict, made: Made, out: str | Path, *, how: Mapping[str, object]) -> Path:
    """Write a dataset's splits as Parquet files, with a card.

    Args:
        data: The splits.
        made: The rows and what they were made from, for the card.
        out: The folder.
        how: How the dataset was made (sources and options), for the card.

    Raises:
        RunDirectoryError: If the folder is not empty.
    """
    with _drafted(Path(out)) as draft:
        splits = {name: _Split(draft, name) for name in data}
        for name, rows in data.items():
            for table in rows.with_format("arrow").iter(batch_size=_ROWS):
                splits[name].write(table)
            splits[name].close()
        (draft / "README.md").write_text(card(splits, made, how), encoding="utf-8")
    return Path(out)


def check_empty(folder: Path) -> None:
    """Raise RunDirectoryError if the folder has anything in it."""
    if folder.exists() and any(folder.iterdir()):
        raise RunDirectoryError(f"{folder} is not empty: choose another directory")


@contextmanager
def _drafted(folder: Path) -> Iterator[Path]:
    """Yield a folder beside this one that takes its place at the end, so that it is complete or absent."""
    check_empty(folder)
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "data").mkdir(parents=True)
    try:
        yield draft
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    draft.replace(folder)


class _Split:
    """A split's Parquet file, its number of rows and its tasks."""

    def __init__(self, folder: Path, name: str) -> None:
        self.rows = 0
        self.tasks = Seen()
        self._path = folder / "data" / f"{name}.parquet"
        self._writer: Any = None
        self._waiting: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        if not self._writer:
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self.rows += len(table)
        for task in table["task_id"].to_pylist():
            self.tasks.add(task)
        self._waiting.append(table)
        if sum(each.nbytes for each in self._waiting) >= _ROW_GROUP:
            self._flush()

    def close(self) -> None:
        if self._writer:
            self._flush()
            self._writer.close()

    def _flush(self) -> None:
        table = pa.concat_tables(self._waiting)
        if len(table):
            self._writer.write_table(table)
        self._waiting.clear()


def push_dataset(folder: str | Path, repo: str, *, private: bool = True) -> str:
    """Upload a saved dataset to the Hub and return its address.

    Args:
        folder: The folder that `save_dataset` wrote.
        repo: The Hub repository ("owner/name"), created if necessary.
        private: Whether a new repository is private.

    Raises:
        ConfigError: If the dataset cannot be uploaded.
    """
    api = HfApi()
    with pushing(f"the dataset {repo!r}", folder):
        url = api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=str(folder))
    return str(url)


def read_dataset(source: str, kind: str) -> DatasetDict:
    """Read a dataset from a folder, a file or the Hub, and check its columns.

    Args:
        source: A folder, a file or a Hub repository.
        kind: "sft", "preference" or "prompts".

    Returns:
        The split `train`, and `eval` if the source has a split "eval", "validation" or "test".

    Raises:
        ConfigError: If it cannot be read, has no rows to train on, or lacks a column.
    """
    splits = load_splits(source)
    held = [name for name in HELD_OUT if name in splits]
    taught = [rows for name, rows in splits.items() if name not in HELD_OUT]
    if not taught:
        raise ConfigError(f"{source}: none of its splits ({', '.join(splits)}) is for training")
    data = DatasetDict({"train": concatenate_datasets(taught)})
    if held:
        data["eval"] = splits[held[0]]
    for split, rows in data.items():
        missing = [name for name in COLUMNS[kind] if name not in rows.column_names]
        if missing:
            raise ConfigError(
                f"{source}: there is no column {missing[0]!r}, which {kind} needs; its columns are "
                f"{', '.join(rows.column_names)}"
            )
        if not len(rows):
            raise ConfigError(f"{source}: the split {split!r} is empty")
    return data


def card(splits: Mapping[str, _Split], made: Made, how: Mapping[str, object]) -> str:
    """Return the dataset card: metadata for the Hub, counts, a histogram of the rewards, and how it was made."""
    head = {
        "tags": ["collab-agents", "multiturn", "synthetic", made.kind],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}.parquet"} for split in splits],
            }
        ],
    }
    lines = [
        f"# {made.kind} dataset",
        "",
        f"Made by collab-agents from conversations scored by lookahead: {made.report()}.",
        "",
        "| split | rows | tasks |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {split.rows} | {len(split.tasks)} |" for name, split in splits.items()),
        "",
        f"## Rewards{' of the chosen replies' if made.kind == 'preference' else ''}",
        "",
        *_histogram("reward", made.rewards),
        "",
        *_probabilities(made),
        "## How it was made",
        "",
        "```yaml",
        yaml.safe_dump(dict(how), sort_keys=False, allow_unicode=True).rstrip(),
        "```",
        "",
    ]
    return "---\n" + yaml.safe_dump(head, sort_keys=False) + "---\n\n" + "\n".join(lines)


def _probabilities(made: Made) -> list[str]:
    if not made.probabilities.count:
        return []
    title = "## Probabilities that the chosen reply is better"
    return [title, "", *_histogram("probability", made.probabilities), ""]


def _histogram(name: str, values: Spread, bins: int = 10) -> list[str]:
    if not values.count:
        return ["(no rewards are recorded)"]
    if values.low == values.high:
        return [f"All {values.count} are {values.low:.3f}."]
    counts, edges = np.histogram(values.sample, bins=bins, range=(values.low, values.high))
    scale = values.count / len(values.sample)
    rows = [
        f"| {low:.3f} to {high:.3f} | {round(count * scale)} | {'█' * round(30 * count / max(counts))} |"
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    estimated = [] if scale == 1 else ["", f"Estimated from {len(values.sample)} of them."]
    return [f"| {name} | rows | |", "| --- | ---: | --- |", *rows, *estimated]
