"""The multiturn scorecard: what finished conversations say about an assistant, and about one against another.

Knows trajectories, not how they were played. Intervals are 95% percentile bootstrap intervals over tasks (Efron and
Tibshirani, 1993, chapter 13); repeats of a task stay together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from collab_agents.seeds import derive_seed
from collab_agents.trajectories import Trajectory

RESAMPLES = 10_000
_AT_ONCE = 1_000
Better = Literal["higher", "lower"]
Repeats = Sequence[Sequence[Trajectory]]
"""An assistant's trajectories: for each seed, those of all tasks."""


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Estimate(Record):
    """value: None if no task has one. low, high: the 95% interval. tasks: how many have a value. per_seed: the value

    of each repeat alone.
    """

    value: float | None
    low: float | None
    high: float | None
    tasks: int
    per_seed: list[float | None] = Field(default_factory=list)


class Difference(Estimate):
    """This assistant's value less the other's, on the tasks that both have. improvement: relative to the other's, in

    the direction that is better; None where neither is, where values may be negative, or the other's is 0.
    """

    improvement: float | None = None


class Side(Record):
    """One assistant: how many conversations were finished and failed, and its measures by name."""

    name: str
    finished: int
    failed: int
    measures: dict[str, Estimate]


class SetScores(Record):
    """One task set. sides: the assistant, then the one it is compared with. difference: of each measure."""

    name: str
    metric: str | None
    seeds: list[int]
    tasks: int
    better: dict[str, Better | None]
    sides: list[Side]
    difference: dict[str, Difference] | None = None


class Scorecard(Record):
    """By task set."""

    sets: list[SetScores]


@dataclass(frozen=True)
class Measure:
    """A number that is computed from sums over conversations, so that resampling tasks is a matrix product.

    of: a conversation's summands, or None if it has none. value: from their sums, of shape (..., summands), to the
    measure, of shape (...). relative: whether it has a zero that makes "so many percent more" mean something.
    """

    of: Callable[[Trajectory], tuple[float, ...] | None]
    value: Callable[[Any], Any]
    better: Better | None
    summands: int = 2
    relative: bool = True


def score_set(
    name: str,
    sides: Mapping[str, Repeats],
    failed: Mapping[str, int],
    *,
    seeds: Sequence[int],
    metric: str | None,
    clarifies: bool = False,
) -> SetScores:
    """The scores of one or two assistants on a task set.

    sides: by the assistant's name; of two, the first is compared with the second.
    metric: the judge that says how well a task was done. clarifies: whether it is one of asking and answering.
    """
    everything = [one for repeats in sides.values() for repeat in repeats for one in repeat]
    measures = _measures(everything, metric, clarifies)
    ids = sorted({one.task.id for one in everything})
    chance = derive_seed(seeds[0], "bootstrap", name)
    sums = {
        side: {key: _sums(measure, repeats, ids) for key, measure in measures.items()}
        for side, repeats in sides.items()
    }
    scored = [
        Side(
            name=side,
            finished=sum(map(len, repeats)),
            failed=failed.get(side, 0),
            measures={
                key: Estimate(
                    **_interval(measures[key].value, [sums[side][key].sum(0)], chance),
                    per_seed=[_number(measures[key].value(one.sum(0))) for one in sums[side][key]],
                )
                for key in measures
            },
        )
        for side, repeats in sides.items()
    ]
    result = SetScores(
        name=name,
        metric=metric,
        seeds=list(seeds),
        tasks=len(ids),
        better={key: measure.better for key, measure in measures.items()},
        sides=scored,
    )
    if len(sides) == 2:
        first, second = sums.values()
        result.difference = {
            key: _difference(measure, first[key], second[key], chance) for key, measure in measures.items()
        }
    return result


def _difference(measure: Measure, first: Any, second: Any, chance: int) -> Difference:
    pair = [first.sum(0), second.sum(0)]
    both = np.logical_and(*(one.any(-1) for one in pair))
    pair = [one[both] for one in pair]
    base = measure.value(pair[1].sum(0))
    found = _interval(measure.value, pair, chance)
    improvement = None
    if found["value"] is not None and measure.better and measure.relative and base > 0:
        improvement = found["value"] / float(base) * (1 if measure.better == "higher" else -1)
    per_seed = [
        _number(measure.value(one.sum(0)) - measure.value(other.sum(0)))
        for one, other in zip(first[:, both], second[:, both], strict=True)
    ]
    return Difference(**found, per_seed=per_seed, improvement=improvement)


def _sums(measure: Measure, repeats: Repeats, ids: Sequence[str]) -> Any:
    """The summands, of shape (repeats, tasks, summands); zeros where a task has none."""
    found = [{one.task.id: measure.of(one) for one in repeat} for repeat in repeats]
    empty = (0.0,) * measure.summands
    sums = [[repeat.get(task) or empty for task in ids] for repeat in found]
    return np.array(sums).reshape(len(repeats), len(ids), measure.summands)


def _interval(value: Callable[[Any], Any], sides: Sequence[Any], chance: int) -> dict[str, Any]:
    """The value, or the first side's less the second's, and its interval. sides: of shape (tasks, summands)."""
    tasks = len(sides[0])
    seen = int(sides[0].any(-1).sum())
    there = _apart([value(side.sum(0)) for side in sides]) if tasks else np.nan
    if not np.isfinite(there):
        return {"value": None, "low": None, "high": None, "tasks": seen}
    random = np.random.default_rng(chance)
    drawn = []
    for _ in range(RESAMPLES // _AT_ONCE):
        weights = random.multinomial(tasks, np.full(tasks, 1 / tasks), size=_AT_ONCE).astype(float)
        drawn.append(_apart([value(weights @ side) for side in sides]))
    low, high = np.nanpercentile(np.concatenate(drawn), [2.5, 97.5])
    return {"value": float(there), "low": float(low), "high": float(high), "tasks": seen}


def _apart(values: Sequence[Any]) -> Any:
    return values[0] - values[1] if len(values) == 2 else values[0]


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _measures(trajectories: Sequence[Trajectory], metric: str | None, clarifies: bool) -> dict[str, Measure]:
    judges = list(dict.fromkeys(name for one in trajectories for name in one.scores))
    measures: dict[str, Measure] = {}
    if metric in judges:
        judges.remove(metric)
        measures |= _clarification(metric) if clarifies else {metric: _mean_of(_score(metric), "higher")}
    judges.sort(key=lambda name: (name != "interactivity", name in _OWN))
    for name in judges:
        better, scale, shown = _OWN.get(name, ("higher", 1.0, name))
        measures[shown] = _mean_of(_score(name, scale), better, relative=name == "interactivity" or name in _OWN)
    measures["reward"] = _mean_of(lambda one: one.reward, "higher", relative=False)
    measures["exchanges"] = _mean_of(_exchanges, "lower")
    measures["ended_by_user"] = _mean_of(lambda one: float(one.stopped == "user"), None)
    return measures


_OWN: dict[str, tuple[Better | None, float, str]] = {
    "assistant_tokens": ("lower", 1e-3, "assistant_ktokens"),
    "user_tokens": ("lower", 1.0, "user_tokens"),
    "asks_first": (None, 1.0, "asks_first"),
}
"""Measures that every scorecard has, recorded as judges of weight 0: what is better, their scale and their name."""


def _mean_of(of: Callable[[Trajectory], float | None], better: Better | None, *, relative: bool = True) -> Measure:
    def summands(one: Trajectory) -> tuple[float, ...] | None:
        value = of(one)
        return None if value is None else (value, 1.0)

    return Measure(summands, lambda sums: _ratio(sums[..., 0], sums[..., 1]), better, relative=relative)


def _clarification(judge: str) -> dict[str, Measure]:
    """Macro accuracy, and F1 of asking where it is ambiguous and of answering where it is clear, after a judge that

    says whether the first reply did what the task's `metadata.ambiguous` calls for (CollabLLM, section 5.4).
    """

    def of(one: Trajectory) -> tuple[float, ...] | None:
        right = one.scores.get(judge)
        if right is None:
            return None
        ambiguous = float(one.task.metadata["ambiguous"])
        clear = 1 - ambiguous
        return (ambiguous * right, ambiguous, clear * right, clear)

    def macro_accuracy(sums: Any) -> Any:
        return (_ratio(sums[..., 0], sums[..., 1]) + _ratio(sums[..., 2], sums[..., 3])) / 2

    def f1(sums: Any, kind: int) -> Any:
        right = sums[..., kind]
        wrong = sums[..., 1] - sums[..., 0] + sums[..., 3] - sums[..., 2]
        return _ratio(2 * right, 2 * right + wrong)

    return {
        "macro_accuracy": Measure(of, macro_accuracy, "higher", 4),
        "f1_ambiguous": Measure(of, lambda sums: f1(sums, 0), "higher", 4),
        "f1_clear": Measure(of, lambda sums: f1(sums, 2), "higher", 4),
    }


def _ratio(above: Any, below: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, np.divide(above, below), np.nan)


def _score(judge: str, scale: float = 1.0) -> Callable[[Trajectory], float | None]:
    def of(one: Trajectory) -> float | None:
        value = one.scores.get(judge)
        return None if value is None else value * scale

    return of


def _exchanges(one: Trajectory) -> float:
    """The user's messages that were answered."""
    said = [message["role"] for message in one.messages]
    return float(said.count("user") - (said[-1:] == ["user"]))
