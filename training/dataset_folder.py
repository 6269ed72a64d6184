"""A dataset on disk: Parquet files and a dataset card, as the Hub and `datasets` read them."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from datasets import DatasetDict, concatenate_datasets
from huggingface_hub import HfApi

from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.training.datasets import Made, load_splits

COLUMNS = {
    "sft": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt", "goal"),
}
"""The columns that each kind of dataset must have."""

HELD_OUT = ("eval", "validation", "test")
"""Splits that are never trained on; the first one that exists is used for evaluation."""


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
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise RunDirectoryError(f"{folder} is not empty: choose another directory")
    draft = folder.with_name(folder.name + ".part")  # So that the folder is complete or absent.
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "data").mkdir(parents=True)
    for split, rows in data.items():
        rows.to_parquet(draft / "data" / f"{split}.parquet")
    (draft / "README.md").write_text(card(data, made, how), encoding="utf-8")
    draft.replace(folder)
    return folder


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
    try:
        url = api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=str(folder))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"the dataset {repo!r} cannot be pushed: {reason}; it is saved in {folder}") from error
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


def card(data: DatasetDict, made: Made, how: Mapping[str, object]) -> str:
    """Return the dataset card: metadata for the Hub, counts, a histogram of the rewards, and how it was made."""
    head = {
        "tags": ["collab-agents", "multiturn", "synthetic", made.kind],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}.parquet"} for split in data],
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
        *(f"| {split} | {len(rows)} | {len(set(rows['task_id']))} |" for split, rows in data.items()),
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
    if not made.probabilities:
        return []
    title = "## Probabilities that the chosen reply is better"
    return [title, "", *_histogram("probability", made.probabilities), ""]


def _histogram(name: str, values: Sequence[float], bins: int = 10) -> list[str]:
    if not values:
        return ["(no rewards are recorded)"]
    if max(values) == min(values):
        return [f"All {len(values)} are {values[0]:.3f}."]
    counts, edges = np.histogram(values, bins=bins)
    rows = [
        f"| {low:.3f} to {high:.3f} | {count} | {'█' * round(30 * count / max(counts))} |"
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    return [f"| {name} | rows | |", "| --- | ---: | --- |", *rows]
