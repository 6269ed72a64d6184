"""The multiturn scorecard: measures of one assistant, or of two compared, from finished conversations.

It reads trajectories and does not know how they were made. Intervals are 95% percentile bootstrap intervals over tasks
(Efron and Tibshirani, 1993, chapter 13); repeats of a task stay together.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from pydantic import Field

from collab_agents._internal.bootstrap import Array, interval, resampled_sums
from collab_agents._internal.seeds import derive_seed
from collab_agents.trajectories import Record, Trajectory

Better = Literal["higher", "lower"]


class Estimate(Record):
    """A measure with its 95% interval."""

    value: float | None
    """None if no task has a value."""
    low: float | None
    """The interval's lower end."""
    high: float | None
    """The interval's upper end."""
    tasks: int
    """How many tasks have a value."""
    per_seed: list[float | None] = Field(default_factory=list)
    """The value of each repeat alone."""


class Difference(Estimate):
    """The first assistant's value minus the second's, over conversations (task and seed) with a value on both sides."""

    improvement: float | None = None
    """The difference relative to the second's value, positive if it is better.

    None if neither direction is better, if values may be negative, or if the second's value is 0.
    """


class Unscored(Record):
    """How many conversations a judge could not score, and its most common reason."""

    count: int
    reason: str


class AssistantResult(Record):
    """One assistant: its finished and failed conversations, its measures, and what was not scored."""

    name: str
    finished: int
    failed: int
    measures: dict[str, Estimate]
    unscored: dict[str, Unscored]


class SetScores(Record):
    """The results on one task set."""

    name: str
    metric: str | None
    seeds: list[int]
    tasks: int
    better: dict[str, Better | None]
    """By measure, which direction is better."""
    sides: list[AssistantResult]
    """The assistant, then the one it is compared with."""
    difference: dict[str, Difference] | None = None
    """By measure; None for one assistant."""


class Scorecard(Record):
    """The results of an evaluation, by task set."""

    sets: list[SetScores]


@dataclass(frozen=True, slots=True)
class Played:
    """What a scorecard keeps of a finished conversation."""

    task_id: str
    ambiguous: bool
    scores: dict[str, float | None]
    reasons: dict[str, str]
    """By judge, why it gave no score."""
    reward: float | None
    exchanges: int
    ended_by_user: bool

    @classmethod
    def of(cls, one: Trajectory) -> "Played":
        roles = [message["role"] for message in one.messages]
        return cls(
            task_id=one.task.id,
            ambiguous=bool(one.task.metadata.get("ambiguous")),
            scores=one.scores,
            reasons={name: one.reasons.get(name, "") for name, value in one.scores.items() if value is None},
            reward=one.reward,
            # The user's messages that were answered.
            exchanges=roles.count("user") - (roles[-1:] == ["user"]),
            ended_by_user=one.stopped == "user",
        )


Repeats = Sequence[Sequence[Played]]
"""An assistant's conversations: one sequence per seed, with all tasks."""


@dataclass(frozen=True)
class Measure:
    """A number computed from sums over conversations, so that resampling tasks is a matrix product."""

    of: Callable[[Played], tuple[float, ...] | None]
    """Returns a conversation's summands, or None if it has none."""
    value: Callable[[Array], Array]
    """Computes the measure, of shape (...), from the sums, of shape (..., summands)."""
    better: Better | None
    summands: int = 2
    relative: bool = True
    """Whether the measure has a true zero, so that percentages make sense."""


def score_set(
    name: str,
    sides: Mapping[str, Repeats],
    failed: Mapping[str, int],
    *,
    seeds: Sequence[int],
    metric: str | None,
    clarifies: bool = False,
    collaboration: Collection[str] = (),
) -> SetScores:
    """Score one or two assistants on a task set.

    Args:
        name: The task set's name.
        sides: The conversations by assistant. The first assistant is compared with the second.
        failed: How many conversations failed, by assistant.
        seeds: The seed of each repeat.
        metric: The judge that measures how well a task was done.
        clarifies: Whether that judge is one of asking and answering.
        collaboration: The judges that measure how well the assistant collaborates.
    """
    everything = [one for repeats in sides.values() for repeat in repeats for one in repeat]
    ids = sorted({one.task_id for one in everything})
    measures = _measures(everything, metric, clarifies, collaboration)
    sums = {side: [_sums(measure, repeats, ids) for measure in measures.values()] for side, repeats in sides.items()}
    estimated = list(sums.values())
    if len(sides) == 2:
        pairs = [_paired(*both) for both in zip(*estimated, strict=True)]
        estimated += [[pair[side] for pair in pairs] for side in range(2)]
    drawn = _Resampled(list(measures.values()), estimated, derive_seed(seeds[0], "bootstrap", name))
    result = SetScores(
        name=name,
        metric=metric,
        seeds=list(seeds),
        tasks=len(ids),
        better={key: measure.better for key, measure in measures.items()},
        sides=[
            AssistantResult(
                name=side,
                finished=sum(map(len, repeats)),
                failed=failed.get(side, 0),
                measures={key: drawn.estimate(number, index) for index, key in enumerate(measures)},
                unscored=_unscored([one for repeat in repeats for one in repeat]),
            )
            for number, (side, repeats) in enumerate(sides.items())
        ],
    )
    if len(sides) == 2:
        result.difference = {key: drawn.difference(2, 3, index) for index, key in enumerate(measures)}
    return result


class _Interval(TypedDict):
    """The part of an `Estimate` that does not depend on the repeats."""

    value: float | None
    low: float | None
    high: float | None
    tasks: int


class _Resampled:
    """The sums of all measures of several sides, over all tasks and over the same resamples of them.

    Each side is a list with an array of shape (repeats, tasks, summands) for each measure.
    """

    def __init__(self, measures: Sequence[Measure], sides: Sequence[Sequence[Array]], seed: int) -> None:
        self._measures = measures
        self._sides = sides
        columns = np.concatenate([one.sum(0) for side in sides for one in side], axis=1)
        self._drawn = resampled_sums(columns, seed)
        self._starts = np.cumsum([0, *(one.shape[-1] for side in sides for one in side)])

    def estimate(self, side: int, index: int) -> Estimate:
        sums = self._sides[side][index]
        value = self._measures[index].value
        per_seed = [_number(value(one.sum(0))) for one in sums]
        found = self._interval(value(sums.sum((0, 1))), self._resamples(side, index), sums)
        return Estimate(**found, per_seed=per_seed)

    def difference(self, first: int, second: int, index: int) -> Difference:
        measure = self._measures[index]
        pair = [self._sides[first][index], self._sides[second][index]]
        values = [measure.value(sums.sum((0, 1))) for sums in pair]
        drawn = self._resamples(first, index) - self._resamples(second, index)
        found = self._interval(values[0] - values[1], drawn, pair[0])
        improvement = None
        if found["value"] is not None and measure.better and measure.relative and values[1] > 0:
            improvement = found["value"] / float(values[1]) * (1 if measure.better == "higher" else -1)
        per_seed = [
            _number(measure.value(one.sum(0)) - measure.value(other.sum(0))) for one, other in zip(*pair, strict=True)
        ]
        return Difference(**found, per_seed=per_seed, improvement=improvement)

    def _resamples(self, side: int, index: int) -> Array:
        place = side * len(self._measures) + index
        return self._measures[index].value(self._drawn[:, self._starts[place] : self._starts[place + 1]])

    @staticmethod
    def _interval(value: Array, drawn: Array, sums: Array) -> _Interval:
        tasks = int(sums.any((0, 2)).sum())
        found = interval(drawn) if np.isfinite(value) else None
        if found is None:
            return {"value": None, "low": None, "high": None, "tasks": tasks}
        return {"value": float(value), "low": found[0], "high": found[1], "tasks": tasks}


def _sums(measure: Measure, repeats: Repeats, ids: Sequence[str]) -> Array:
    """Return the summands, of shape (repeats, tasks, summands); zeros where a conversation has none."""
    found = [{one.task_id: measure.of(one) for one in repeat} for repeat in repeats]
    empty = (0.0,) * measure.summands
    sums = [[repeat.get(task) or empty for task in ids] for repeat in found]
    return np.array(sums, dtype=float).reshape(len(repeats), len(ids), measure.summands)


def _paired(first: Array, second: Array) -> tuple[Array, Array]:
    """Return both arrays with zeros where a conversation has no value on one side."""
    both = first.any(-1, keepdims=True) & second.any(-1, keepdims=True)
    return first * both, second * both


def _number(value: Array) -> float | None:
    return float(value) if np.isfinite(value) else None


def _unscored(played: Sequence[Played]) -> dict[str, Unscored]:
    reasons: dict[str, Counter[str]] = {}
    for one in played:
        for judge, reason in one.reasons.items():
            reasons.setdefault(judge, Counter())[reason] += 1
    return {judge: Unscored(count=found.total(), reason=found.most_common(1)[0][0]) for judge, found in reasons.items()}


_OWN: dict[str, tuple[Better | None, float, str]] = {
    "assistant_tokens": ("lower", 1e-3, "assistant_ktokens"),
    "user_tokens": ("lower", 1.0, "user_tokens"),
    "asks_first": (None, 1.0, "asks_first"),
}
"""Measures in every scorecard, recorded as judges of weight 0: the better direction, the scale and the name."""

RESERVED = {"assistant_ktokens", "reward", "exchanges", "ended_by_user", "macro_accuracy", "f1_ambiguous", "f1_clear"}
"""Names that a judge in a scorecard cannot have."""


def _measures(
    played: Sequence[Played], metric: str | None, clarifies: bool, collaboration: Collection[str]
) -> dict[str, Measure]:
    judges = list(dict.fromkeys(name for one in played for name in one.scores))
    # The metric first, then collaboration, and what every scorecard has last.
    judges.sort(key=lambda name: (name != metric, name not in collaboration, name in _OWN))
    measures: dict[str, Measure] = {}
    for name in judges:
        better, scale, shown = _OWN.get(name, ("higher", 1.0, name))
        if name == metric and clarifies:
            measures |= _clarification(name)
        else:
            relative = name == metric or name in collaboration or name in _OWN
            measures[shown] = _mean_of(_score(name, scale), better, relative=relative)
    measures["reward"] = _mean_of(lambda one: one.reward, "higher", relative=False)
    measures["exchanges"] = _mean_of(lambda one: float(one.exchanges), "lower")
    measures["ended_by_user"] = _mean_of(lambda one: float(one.ended_by_user), None)
    return measures


def _mean_of(of: Callable[[Played], float | None], better: Better | None, *, relative: bool = True) -> Measure:
    def summands(one: Played) -> tuple[float, ...] | None:
        value = of(one)
        return None if value is None else (value, 1.0)

    return Measure(summands, lambda sums: _ratio(sums[..., 0], sums[..., 1]), better, relative=relative)


def _clarification(judge: str) -> dict[str, Measure]:
    """Return macro accuracy and the F1 of asking and of answering (CollabLLM, section 5.4).

    The judge scores whether the first reply did what the task's `metadata.ambiguous` calls for: ask if the question
    is ambiguous, answer if it is clear.
    """

    def of(one: Played) -> tuple[float, ...] | None:
        right = one.scores.get(judge)
        if right is None:
            return None
        return (right, 1.0, 0.0, 0.0) if one.ambiguous else (0.0, 0.0, right, 1.0)

    def macro_accuracy(sums: Array) -> Array:
        return (_ratio(sums[..., 0], sums[..., 1]) + _ratio(sums[..., 2], sums[..., 3])) / 2

    def f1(sums: Array, kind: int) -> Array:
        right = sums[..., kind]
        wrong = sums[..., 1] - sums[..., 0] + sums[..., 3] - sums[..., 2]
        return _ratio(2 * right, 2 * right + wrong)

    return {
        "macro_accuracy": Measure(of, macro_accuracy, "higher", 4),
        "f1_ambiguous": Measure(of, lambda sums: f1(sums, 0), "higher", 4),
        "f1_clear": Measure(of, lambda sums: f1(sums, 2), "higher", 4),
    }


def _ratio(above: Array, below: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, np.divide(above, below), np.nan)


def _score(judge: str, scale: float = 1.0) -> Callable[[Played], float | None]:
    def of(one: Played) -> float | None:
        value = one.scores.get(judge)
        return None if value is None else value * scale

    return of
