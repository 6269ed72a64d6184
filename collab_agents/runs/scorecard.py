"""The multiturn scorecard: what finished conversations say about an assistant, and about one against another.

Knows trajectories, not how they were played. Intervals are 95% percentile bootstrap intervals over tasks (Efron and
Tibshirani, 1993, chapter 13); repeats of a task stay together.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from collab_agents._internal.seeds import derive_seed
from collab_agents.trajectories import Record, Trajectory

RESAMPLES = 10_000
_AT_ONCE = 1_000
Better = Literal["higher", "lower"]


class Estimate(Record):
    """A measure with its 95% interval.

    value: None if no task has one. low, high: the interval. tasks: how many have a value. per_seed: the value of each
    repeat alone.
    """

    value: float | None
    low: float | None
    high: float | None
    tasks: int
    per_seed: list[float | None] = Field(default_factory=list)


class Difference(Estimate):
    """This assistant's value less the other's, on the conversations (task and seed) that have a value on both sides.

    improvement: relative to the other's, in the direction that is better; None where neither is, where values may be
    negative, or the other's is 0.
    """

    improvement: float | None = None


class Unscored(Record):
    """How many conversations a judge gave no score, and its commonest reason."""

    count: int
    reason: str


class AssistantResult(Record):
    """One assistant: how many conversations were finished and failed, its measures, and what was not scored."""

    name: str
    finished: int
    failed: int
    measures: dict[str, Estimate]
    unscored: dict[str, Unscored]


class SetScores(Record):
    """One task set. sides: the assistant, then the one it is compared with. difference: of each measure."""

    name: str
    metric: str | None
    seeds: list[int]
    tasks: int
    better: dict[str, Better | None]
    sides: list[AssistantResult]
    difference: dict[str, Difference] | None = None


class Scorecard(Record):
    """By task set."""

    sets: list[SetScores]


@dataclass(frozen=True, slots=True)
class Played:
    """What a scorecard keeps of a finished conversation. reasons: why a judge gave no score."""

    task_id: str
    ambiguous: bool
    scores: dict[str, float | None]
    reasons: dict[str, str]
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
"""An assistant's conversations: for each seed, those of all tasks."""


@dataclass(frozen=True)
class Measure:
    """A number that is computed from sums over conversations, so that resampling tasks is a matrix product.

    of: a conversation's summands, or None if it has none. value: from their sums, of shape (..., summands), to the
    measure, of shape (...). relative: whether it has a zero that makes "so many percent more" mean something.
    """

    of: Callable[[Played], tuple[float, ...] | None]
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
    collaboration: Collection[str] = (),
) -> SetScores:
    """The scores of one or two assistants on a task set.

    sides: by the assistant's name; of two, the first is compared with the second.
    metric: the judge that says how well a task was done. clarifies: whether it is one of asking and answering.
    collaboration: the judges that say how well the assistant collaborates.
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
                measures={key: Estimate(**drawn.estimate(number, index)) for index, key in enumerate(measures)},
                unscored=_unscored([one for repeat in repeats for one in repeat]),
            )
            for number, (side, repeats) in enumerate(sides.items())
        ],
    )
    if len(sides) == 2:
        result.difference = {key: Difference(**drawn.difference(2, 3, index)) for index, key in enumerate(measures)}
    return result


class _Resampled:
    """Sums of all measures of several sides, over all tasks and over the same resamples of them.

    sides: for each, an array of shape (repeats, tasks, summands) for each measure.
    """

    def __init__(self, measures: Sequence[Measure], sides: Sequence[Sequence[Any]], seed: int) -> None:
        self._measures = measures
        self._sides = sides
        columns = np.concatenate([one.sum(0) for side in sides for one in side], axis=1)
        tasks = len(columns)
        random = np.random.default_rng(seed)
        self._drawn = np.empty((RESAMPLES, columns.shape[1]))
        for start in range(0, RESAMPLES, _AT_ONCE) if tasks else ():
            weights = random.multinomial(tasks, np.full(tasks, 1 / tasks), size=_AT_ONCE).astype(float)
            self._drawn[start : start + _AT_ONCE] = weights @ columns
        self._starts = np.cumsum([0, *(one.shape[-1] for side in sides for one in side)])

    def estimate(self, side: int, index: int) -> dict[str, Any]:
        sums = self._sides[side][index]
        value = self._measures[index].value
        per_seed = [_number(value(one.sum(0))) for one in sums]
        return self._interval(value(sums.sum((0, 1))), self._resamples(side, index), sums) | {"per_seed": per_seed}

    def difference(self, first: int, second: int, index: int) -> dict[str, Any]:
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
        return found | {"per_seed": per_seed, "improvement": improvement}

    def _resamples(self, side: int, index: int) -> Any:
        place = side * len(self._measures) + index
        return self._measures[index].value(self._drawn[:, self._starts[place] : self._starts[place + 1]])

    @staticmethod
    def _interval(value: Any, drawn: Any, sums: Any) -> dict[str, Any]:
        tasks = int(sums.any((0, 2)).sum())
        if not np.isfinite(value):
            return {"value": None, "low": None, "high": None, "tasks": tasks}
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        return {"value": float(value), "low": float(low), "high": float(high), "tasks": tasks}


def _sums(measure: Measure, repeats: Repeats, ids: Sequence[str]) -> Any:
    """The summands, of shape (repeats, tasks, summands); zeros where a conversation has none."""
    found = [{one.task_id: measure.of(one) for one in repeat} for repeat in repeats]
    empty = (0.0,) * measure.summands
    sums = [[repeat.get(task) or empty for task in ids] for repeat in found]
    return np.array(sums, dtype=float).reshape(len(repeats), len(ids), measure.summands)


def _paired(first: Any, second: Any) -> tuple[Any, Any]:
    """Both, with zeros where a conversation has no value on one side."""
    both = first.any(-1, keepdims=True) & second.any(-1, keepdims=True)
    return first * both, second * both


def _number(value: Any) -> float | None:
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
"""Measures that every scorecard has, recorded as judges of weight 0: what is better, their scale and their name."""

RESERVED = {"assistant_ktokens", "reward", "exchanges", "ended_by_user", "macro_accuracy", "f1_ambiguous", "f1_clear"}
"""What a judge cannot be called where a scorecard is made."""


def _measures(
    played: Sequence[Played], metric: str | None, clarifies: bool, collaboration: Collection[str]
) -> dict[str, Measure]:
    judges = list(dict.fromkeys(name for one in played for name in one.scores))
    # The metric first, collaboration next, what every scorecard has last.
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

    The judge says whether the first reply did what the task's `metadata.ambiguous` calls for: ask where the question
    is ambiguous, answer where it is clear.
    """

    def of(one: Played) -> tuple[float, ...] | None:
        right = one.scores.get(judge)
        if right is None:
            return None
        return (right, 1.0, 0.0, 0.0) if one.ambiguous else (0.0, 0.0, right, 1.0)

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


def _score(judge: str, scale: float = 1.0) -> Callable[[Played], float | None]:
    def of(one: Played) -> float | None:
        value = one.scores.get(judge)
        return None if value is None else value * scale

    return of
