"""The record of a loop of rounds, `improve.json`: what each round was trained on, and how good it is.

It loads no trainer, so that a loop can be looked at where none is installed.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from collab_agents._internal.reasons import first_problem
from collab_agents._internal.whole import replacing
from collab_agents.errors import RunDirectoryError
from collab_agents.runs.scorecard import Difference, Estimate, Scorecard
from collab_agents.training.made_from import MadeFrom
from collab_agents.trajectories import Record

IMPROVE = "improve.json"
"""The file in a loop's folder, with a `Rounds`."""

EVALUATIONS = "evaluations"
"""The folder in a training's folder with an evaluation a step, `step-N`."""


class Step(Record):
    """A command of a round that is done."""

    name: str
    """"generate", "evaluate", a training's name such as "dpo", or that name with "merge" before it."""
    seconds: float
    """What the attempt that finished it took."""


class HeldOut(Record):
    """A round's results on one set of held-out tasks."""

    measures: dict[str, Estimate]
    difference: dict[str, Difference] | None = None
    """By measure, the paired difference to round 0; None for round 0."""
    finished: int
    failed: int
    """The conversations that could not be finished, which no measure counts."""


class Mean(Record):
    """The mean of a measure over the held-out sets, with its 95% interval."""

    value: float
    low: float
    high: float


class Round(Record):
    """A round. Round 0 is the model that the loop began with."""

    number: int
    model: str | None = None
    """The model after its trainings: a folder in the loop's, or for round 0 a name. None until they are done."""
    steps: list[Step] = Field(default_factory=list)
    data: dict[str, MadeFrom] = Field(default_factory=dict)
    """By training, what its dataset was made from; not for a dataset that was made before."""
    sets: dict[str, HeldOut] = Field(default_factory=dict)
    reward: Mean | None = None
    """The held-out reward, by which rounds are compared: the mean over the sets."""
    difference: Mean | None = None
    """Its difference to round 0's, over the same tasks, personas and seeds."""

    def is_done(self, step: str) -> bool:
        """Whether a step is done."""
        return any(one.name == step for one in self.steps)


class Test(Record):
    """What the best round came to on tasks that nothing was chosen on."""

    round: int
    sets: dict[str, HeldOut]
    reward: Mean
    difference: Mean | None = None


class Rounds(Record):
    """A loop of rounds."""

    config: dict[str, Any]
    """`loop.yaml` and the files that it names."""
    tasks: list[int] = Field(default_factory=list)
    """By entry of `generate`, the tasks of its trajectories."""
    rounds: list[Round] = Field(default_factory=list)
    best: int | None = None
    """The round with the highest held-out reward, the first of equals. None before round 0 is evaluated."""
    ended: str | None = None
    """Why the loop ended; None while it is under way."""
    test: Test | None = None

    def round(self, number: int) -> Round:
        """Return a round, and begin it if it is the next."""
        if number == len(self.rounds):
            self.rounds.append(Round(number=number))
        return self.rounds[number]

    def choose_best(self) -> None:
        """Set `best`."""
        scored = [one for one in self.rounds if one.reward is not None]
        if scored:
            self.best = max(scored, key=lambda one: one.reward.value if one.reward else -math.inf).number


def read_rounds(folder: str | Path) -> Rounds:
    """Return the record of a loop.

    Raises:
        RunDirectoryError: If it is damaged.
    """
    file = Path(folder) / IMPROVE
    try:
        return Rounds.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise RunDirectoryError(f"{file}: it is not the record of a loop: {first_problem(error)}") from error


def write_rounds(rounds: Rounds, folder: Path) -> None:
    """Write the record of a loop. Whoever reads it meets the old one or the new one, whole."""
    with replacing(folder / IMPROVE) as file:
        file.write(rounds.model_dump_json(indent=2) + "\n")


def held_out(scorecard: Scorecard, name: str) -> dict[str, HeldOut]:
    """Return, by set, what a scorecard says of one of its assistants."""
    found = {}
    for one in scorecard.sets:
        side = next(side for side in one.sides if side.name == name)
        found[one.name] = HeldOut(
            measures=side.measures, difference=one.difference, finished=side.finished, failed=side.failed
        )
    return found


def mean_of(estimates: Sequence[Estimate]) -> Mean | None:
    """Return the mean of independent estimates, or None if one has no value or there are none.

    The interval is by the method of variance estimates recovery (Zou and Donner, 2008), from the intervals of each.
    """
    below = above = total = 0.0
    for one in estimates:
        if one.value is None or one.low is None or one.high is None:
            return None
        total += one.value
        below += (one.value - one.low) ** 2
        above += (one.high - one.value) ** 2
    if not estimates:
        return None
    value = total / len(estimates)
    return Mean(
        value=value, low=value - math.sqrt(below) / len(estimates), high=value + math.sqrt(above) / len(estimates)
    )
