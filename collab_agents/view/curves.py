"""What a training logged, by measure."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collab_agents.errors import RunDirectoryError
from collab_agents.training.samples import SAMPLES

LOG, SETTINGS = "training_log.json", "training.json"

Points = list[tuple[float, float]]
"""Steps and values."""


def is_training(folder: Path) -> bool:
    """Whether the folder was written by `collab-agents train`, or by a trainer that records samples."""
    return any((folder / name).is_file() for name in (SETTINGS, SAMPLES)) or bool(_states(folder))


def read_curves(folder: Path) -> dict[str, dict[str, Points]]:
    """Return the points of each measure, in training and in evaluation; of held-out ones the mean and its interval.

    While the training is under way, it is what its last checkpoint holds.

    Raises:
        RunDirectoryError: If the log is damaged.
    """
    states = _states(folder)
    file = folder / LOG if (folder / LOG).is_file() else states[-1] if states else None
    if file is None:
        return {}
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        entries: list[Mapping[str, Any]] = read if isinstance(read, list) else read["log_history"]
        return _curves(entries)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunDirectoryError(f"{file}: it is not the log of a training: {error}") from error


def _states(folder: Path) -> list[Path]:
    found = folder.glob("checkpoint-*/trainer_state.json")
    return sorted(found, key=lambda file: file.stat().st_mtime)


def _curves(entries: list[Mapping[str, Any]]) -> dict[str, dict[str, Points]]:
    curves: dict[str, dict[str, Points]] = {}
    for entry in entries:
        for name, value in entry.items():
            if name in ("step", "epoch") or not isinstance(value, int | float) or not math.isfinite(value):
                continue
            measure, kind = _kind_of(name)
            points = curves.setdefault(measure, {}).setdefault(kind, [])
            points.append((float(entry["step"]), float(value)))
    return {name: kinds for name, kinds in curves.items() if max(map(len, kinds.values())) > 1}


def _kind_of(name: str) -> tuple[str, str]:
    """Return the measure, and which of its lines a logged name is."""
    if name.startswith("heldout/"):
        measure, _, end = name.rpartition("/")
        return (measure, end) if end in ("low", "high") else (name, "mean")
    return (name.removeprefix("eval_"), "evaluation" if name.startswith("eval_") else "training")
