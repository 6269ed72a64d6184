"""The records of a training: how a model was trained, and what its data was made from.

They are in the training's folder, and in a folder in that of a model that its adapter was merged into.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from collab_agents.training.made_from import MADE_FROM

CONFIG = "training.json"
LOG = "training_log.json"
MERGED_FROM = "merged_from"
"""The folder of the records in a merged model's folder."""

_LIBRARIES = ("collab-agents", "trl", "peft", "transformers", "torch", "datasets")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that train."""
    return {library: version(library) for library in _LIBRARIES}


def records_of(folder: Path) -> Path:
    """Return where the records of a model's folder are, if there are any."""
    merged = folder / MERGED_FROM
    return merged if merged.is_dir() else folder


def copy_records(folder: Path, merged: Path) -> None:
    """Copy a training's records to the folder of the model that its adapter was merged into."""
    for name in (CONFIG, MADE_FROM, LOG):
        if (folder / name).is_file():
            (merged / MERGED_FROM).mkdir(exist_ok=True)
            shutil.copy(folder / name, merged / MERGED_FROM / name)


def trainings_of(folder: Path) -> tuple[list[dict[str, Any]], str | None]:
    """Return the configurations of the trainings that made a model, the last first, and the model they began with.

    The model is a name, a repository of the Hub or a folder without records; None if the folder itself has none.
    """
    found: list[dict[str, Any]] = []
    seen: set[Path] = set()
    base: str | None = None
    while (file := records_of(folder) / CONFIG).is_file() and file.resolve() not in seen:
        seen.add(file.resolve())
        found.append(json.loads(file.read_text(encoding="utf-8")))
        base = str(found[-1]["model"]["name"]).removeprefix("local:")
        folder = Path(base)
    return found, base


def last_values(history: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the last value of everything that a training logged."""
    last: dict[str, float] = {}
    for entry in history:
        last.update({key: value for key, value in entry.items() if isinstance(value, int | float)})
    return last
