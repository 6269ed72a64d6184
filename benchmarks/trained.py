"""Models that were trained several times, compared on the same held-out tasks.

Intervals are 95% bootstrap intervals over tasks, paired by task and seed. They leave out what another training seed
would change, so the value of each training seed is shown too.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from collab_agents import read_trajectories
from collab_agents.runs.scorecard import Estimate, Played, SetScores, score_set

Results = dict[str, Any]

Conversations = list[list[list[Played]]]
"""A model's held-out conversations, by training seed and repeat."""


def read_played(runs: Sequence[Path]) -> list[list[Played]]:
    """Return the conversations of each run."""
    return [[Played.of(one) for one in read_trajectories(run)] for run in runs]


def alone(name: str, seeds: Conversations, measures: Sequence[str]) -> Results:
    """Return a model's measures."""
    scores = _score({name: _flat(seeds)})
    return {"training_seeds": len(seeds), **_shown(scores.sides[0].measures, len(seeds), measures)}


def compared(first: Conversations, second: Conversations, measures: Sequence[str]) -> Results:
    """Return the differences of two models, pairing their training seeds; a single one is taken for each."""
    if len(second) == 1:
        second = second * len(first)
    seeds = min(len(first), len(second))
    scores = _score({"first": _flat(first[:seeds]), "second": _flat(second[:seeds])})
    assert scores.difference is not None
    return {"training_seeds": seeds, **_shown(scores.difference, seeds, measures)}


def _score(sides: Mapping[str, list[list[Played]]]) -> SetScores:
    repeats = len(next(iter(sides.values())))
    return score_set("offline", sides, {}, seeds=list(range(repeats)), metric="fact_coverage")


def _flat(seeds: Conversations) -> list[list[Played]]:
    return [repeat for repeats in seeds for repeat in repeats]


def _shown(found: Mapping[str, Estimate], seeds: int, measures: Sequence[str]) -> Results:
    shown: Results = {}
    for name in measures:
        one = found[name]
        each = [value or 0.0 for value in one.per_seed]
        repeats = len(each) // seeds
        by_seed = [statistics.fmean(each[seed * repeats : (seed + 1) * repeats]) for seed in range(seeds)]
        shown[name] = {"value": one.value, "low": one.low, "high": one.high, "by_training_seed": by_seed}
    return shown


def table(title: str, *columns: str) -> Table:
    """Return an empty table, with the first column on the left and numbers in the others."""
    made = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        made.add_column(column.replace("_", " "), justify="right" if number else "left")
    return made


def cells(one: Results, measures: Sequence[str], sign: str = "") -> list[str]:
    """Return the cells of a model or a difference: each measure with its interval, and the reward by training seed."""
    shown = [_range(one[name], sign) for name in measures]
    return [*shown, " ".join(f"{value:{sign}.3f}" for value in one["reward"]["by_training_seed"])]


def _range(measure: Results, sign: str) -> str:
    if measure["value"] is None:
        return "-"
    value, low, high = (f"{measure[key]:{sign}.3f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
