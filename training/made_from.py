"""The record of what the dataset of a training was made from.

It loads no trainer, so that a training can be looked at where none is installed.
"""

from pathlib import Path

from pydantic import Field

from collab_agents.trajectories import Record

MADE_FROM = "made_from.json"
"""The file in a training's folder, with a `MadeFrom`."""


class Spread(Record):
    """How numbers are spread. Of more than 10,000, the quartiles are those of a sample."""

    count: int
    low: float
    quartiles: tuple[float, float, float]
    high: float


class MadeFrom(Record):
    """What a dataset was made from."""

    kind: str
    """"sft", "preference" or "prompts"."""
    rows: int
    made_from: int
    source: str
    """What `made_from` counts, in the plural."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """How many were left out, by reason."""
    rewards: Spread | None = None
    """The reward of each row; for a pair, the chosen reply's."""
    gaps: Spread | None = None
    """For pairs: the differences in reward."""
    probabilities: Spread | None = None
    """For pairs chosen by it: the probability that the chosen reply is better."""


def read_made_from(folder: str | Path) -> MadeFrom | None:
    """Return the record of a training; None if its dataset was made before."""
    file = Path(folder) / MADE_FROM
    return MadeFrom.model_validate_json(file.read_text(encoding="utf-8")) if file.exists() else None
