"""How far rewards tell candidates apart: variance components, reliability, and which candidate is the best.

The reward of future j of candidate i in turn t is taken as mu_t + c_ti + e_tij, a one-way random effects model within
turns. Its two variances, `between` candidates (of c) and `within` a candidate (of e), are pooled over turns and
estimated from sums of squares (Searle, Casella and McCulloch, Variance Components, 1992, section 3.6). The mean of k
futures then tells candidates apart with the reliability between / (between + within / k).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from collab_agents._internal.bootstrap import Array, interval, resampled_sums
from collab_agents.lookahead import Components
from collab_agents.trajectories import Expected, Record, Trajectory, Turn

_PRIOR_RATIO = 0.2
_PRIOR_FREEDOM = 6
_RUN_FREEDOM = 8
Rewards = Sequence[Sequence[float]]
"""A turn's rewards, by candidate and future."""

_DRAWS = 4096
_RESAMPLES = 2000
_ENOUGH = 0.8
"""A reliability above which fewer futures are proposed instead of more."""
_MORE = 4
"""How many times the futures are proposed otherwise."""
_TOO_FEW = "it takes turns with two candidates or more, and candidates with two futures or more"


class ScoreReliability(Record):
    """How far one score tells candidates apart. What cannot be estimated is None."""

    components: Components | None
    """None without two candidates in a turn and two futures of a candidate, or if nothing varies."""
    value: float | None
    """The reliability of the mean of as many futures as were played for a candidate."""
    low: float | None
    """The lower end of its 95% percentile bootstrap interval over tasks; None for fewer than two tasks."""
    high: float | None
    """The interval's upper end."""


class Reliability(Record):
    """How far a run's rewards tell candidates apart."""

    turns: int
    """Turns with a choice: at least two candidates with a reward."""
    futures: float | None
    """The mean number of futures that count of such a turn's candidates."""
    reward: ScoreReliability
    judges: dict[str, ScoreReliability]
    chosen_is_best: float | None
    """The mean of `probabilities`."""
    probabilities: dict[str, list[float | None]]
    """By task and turn, the probability that the chosen candidate has the highest true reward of the turn's candidates.

    None if the turn had no choice, the components are unknown, or a person replied.
    """
    share_of_futures: float | None = None
    """The share of the run's calls that were made in futures; None if no calls were counted."""

    @property
    def advice(self) -> str:
        """One sentence: how reliable the rewards are, and what other numbers of futures would give."""
        components, value = self.reward.components, self.reward.value
        if components is None or value is None or not self.futures:
            why = "the rewards of a turn are all equal" if self.turns and (self.futures or 0) > 1 else _TOO_FEW
            return f"How reliably rewards rank candidates is unknown: {why}."
        begin = f"{_count(self.futures)} rank candidates with reliability {value:.2f}{_between(self.reward)}"
        if value == 0:
            return f"{begin}: candidates differ by no more than chance would make them."
        other = self._other_number(components)
        if other is None:
            return f"{begin}."
        return f"{begin}; {other} would give {components.reliability(other):.2f}{self._cost_of(other)}."

    def _other_number(self, components: Components) -> int | None:
        assert self.futures
        assert self.reward.value is not None
        if self.reward.value < _ENOUGH:
            return round(_MORE * self.futures)
        return next((k for k in range(1, int(self.futures)) if (components.reliability(k) or 0) >= _ENOUGH), None)

    def _cost_of(self, futures: int) -> str:
        if self.share_of_futures is None or not self.futures:
            return ""
        times = 1 + (futures / self.futures - 1) * self.share_of_futures
        return f" at {times:.1f} times the calls"


def reliability(trajectories: Iterable[Trajectory]) -> Reliability:
    """Estimate how far the rewards of trajectories tell candidates apart.

    Example:
        found = reliability(read_trajectories("runs/first"))
        print(found.reward.components, found.advice)
    """
    tally = ReliabilityTally()
    for one in trajectories:
        tally.add(one.task.id, one.turns, one.usage.calls)
    return tally.result()


class ReliabilityTally:
    """What `reliability` needs to know of trajectories, without keeping them."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, Array]] = {}
        """By score and task."""
        self._turns: dict[str, list[tuple[int, list[float | None], list[int]]]] = {}
        """By task, each turn's choice, and its candidates' rewards and numbers of futures."""
        self._calls = self._sampled = 0

    def add(self, task_id: str, turns: Sequence[Turn], calls: int) -> None:
        """Count a trajectory's turns, and the model calls that it took."""
        self._calls += calls
        for turn in turns:
            self._sampled += len(turn.candidates)
            for name, groups in _scores_in(turn).items():
                rows = self._sums.setdefault(name, {})
                rows[task_id] = rows.get(task_id, np.zeros(_COLUMNS)) + _sums_of_squares(groups)
        self._turns.setdefault(task_id, []).extend(
            (one.chosen, [each.reward for each in one.candidates], [each.scored for each in one.candidates])
            for one in turns
        )

    def dump(self) -> Any:
        """Return what was counted as a JSON value for `load`."""
        sums = {name: {task: row.tolist() for task, row in rows.items()} for name, rows in self._sums.items()}
        return {"sums": sums, "turns": self._turns, "calls": self._calls, "sampled": self._sampled}

    @classmethod
    def load(cls, value: Any) -> "ReliabilityTally":
        """Return the tally of which `dump` made the value."""
        tally = cls()
        tally._sums = {
            name: {task: np.array(row) for task, row in rows.items()} for name, rows in value["sums"].items()
        }
        tally._turns = {task: [(*turn,) for turn in turns] for task, turns in value["turns"].items()}
        tally._calls, tally._sampled = value["calls"], value["sampled"]
        return tally

    def components(self) -> Components | None:
        """Return the variances of the reward, if they are known."""
        rows = self._sums.get(_REWARD)
        return _components_or_none(np.sum(list(rows.values()), axis=0)) if rows else None

    def result(self) -> Reliability:
        """Estimate from all that was counted."""
        choices = [
            [count for reward, count in zip(rewards, counts, strict=True) if reward is not None]
            for turns in self._turns.values()
            for _, rewards, counts in turns
        ]
        numbers = [count for counts in choices if len(counts) > 1 for count in counts]
        futures = sum(numbers) / len(numbers) if numbers else None
        found = self._estimates(futures)
        reward = found.pop(_REWARD, _UNKNOWN)
        probabilities = {
            task: [_chosen_is_best(*turn, reward.components) for turn in turns]
            for task, turns in self._turns.items()
            if turns
        }
        known = [one for turns in probabilities.values() for one in turns if one is not None]
        return Reliability(
            turns=sum(len(counts) > 1 for counts in choices),
            futures=futures,
            reward=reward,
            judges=found,
            chosen_is_best=sum(known) / len(known) if known else None,
            probabilities=probabilities,
            share_of_futures=(self._calls - self._sampled) / self._calls if self._calls > self._sampled else None,
        )

    def _estimates(self, futures: float | None) -> dict[str, ScoreReliability]:
        if futures is None:
            return dict.fromkeys(self._sums, _UNKNOWN)
        none = np.zeros(_COLUMNS)
        rows = np.array([[tasks.get(task, none) for tasks in self._sums.values()] for task in self._turns])
        resampled = None
        if len(rows) > 1:
            drawn = resampled_sums(rows.reshape(len(rows), -1), seed=0, resamples=_RESAMPLES)
            resampled = drawn.reshape(_RESAMPLES, *rows.shape[1:])
        return {
            name: _estimate(rows[:, index].sum(0), None if resampled is None else resampled[:, index], futures)
            for index, name in enumerate(self._sums)
        }


_REWARD = ""
"""Stands for the reward among the judges' names, none of which is empty."""
_COLUMNS = 5
_UNKNOWN = ScoreReliability(components=None, value=None, low=None, high=None)


def _scores_in(turn: Turn) -> dict[str, list[list[float]]]:
    """Return by judge, and for the reward, the values of each candidate's futures that count.

    Futures that were added where the choice was open are left out: the components would be biased.
    """
    first = [candidate.futures[: turn.first_futures] for candidate in turn.candidates]
    futures = [[one for one in each if one.counts] for each in first]
    names = dict.fromkeys(name for each in futures for one in each for name in one.scores)
    found = {name: [[one.scores.get(name) for one in each] for each in futures] for name in names}
    found[_REWARD] = [[one.reward for one in each] for each in futures]
    return {
        name: [there for group in groups if (there := [one for one in group if one is not None])]
        for name, groups in found.items()
    }


def _sums_of_squares(groups: Sequence[Sequence[float]]) -> Array:
    """Return a turn's sum of squares within groups, its degrees of freedom, the same between groups, and a coefficient.

    The expected sum of squares between groups is the coefficient times the variance between groups, and the degrees of
    freedom times the variance within.
    """
    if not groups:
        return np.zeros(_COLUMNS)
    counts = np.array([len(group) for group in groups])
    total = counts.sum()
    values = np.concatenate([np.array(group) for group in groups]) - groups[0][0]  # Equal values are exactly 0 then.
    group = np.repeat(np.arange(len(groups)), counts)
    means = np.bincount(group, values) / counts
    within = float(((values - means[group]) ** 2).sum())
    between = float((counts * (means - (counts * means).sum() / total) ** 2).sum())
    coefficient = total - (counts**2).sum() / total
    return np.array([within, total - len(groups), between, len(groups) - 1, coefficient], dtype=float)


def components_of(turns: Iterable[Rewards]) -> Components | None:
    """Estimate the variances from many turns, or return None if they are unknown or 0.

    Args:
        turns: By turn, candidate and future, as many futures of each candidate as were played whatever they gave.
    """
    return _components_or_none(_sum_of(turns))


def likely_components(turns: Iterable[Rewards]) -> Components | None:
    """Estimate the variances from a few turns, such as those of one conversation.

    So few turns say little of the variance between candidates. Its estimate is averaged with a prior of `_PRIOR_RATIO`
    times the variance within, which counts for `_PRIOR_FREEDOM` degrees of freedom.

    Args:
        turns: By turn, candidate and future, as many futures of each candidate as were played whatever they gave.

    Returns:
        The components, or None if no candidate has two futures.
    """
    sums = _sum_of(turns)
    within_squares, within_freedom, between_squares, between_freedom, coefficient = map(float, sums)
    if not within_freedom:
        return None
    within = within_squares / within_freedom
    between = max((between_squares - between_freedom * within) / coefficient, 0) if coefficient else 0
    prior = _PRIOR_FREEDOM * _PRIOR_RATIO * within
    return Components(between=(prior + between_freedom * between) / (_PRIOR_FREEDOM + between_freedom), within=within)


def components_in(turn: Rewards, run: Components) -> Components:
    """Return the variances of one turn: that within is its own, shrunk towards the run's.

    Some turns are noisier than others. The run's variance counts for `_RUN_FREEDOM` degrees of freedom.
    """
    within_squares, within_freedom, *_ = map(float, _sum_of([turn]))
    within = (_RUN_FREEDOM * run.within + within_squares) / (_RUN_FREEDOM + within_freedom)
    return Components(between=run.between, within=within)


def explained_share(
    raw: Mapping[str, Sequence[Rewards]], left: Mapping[str, Sequence[Rewards]]
) -> tuple[float, float, float]:
    """Return how much of the variance between candidates a prediction of it explains, with its 95% interval.

    Args:
        raw: The rewards of each task's turns.
        left: The same less what was predicted of each candidate.

    Returns:
        1 less the ratio of the two variances between candidates, and the ends of its bootstrap interval over tasks.
    """
    rows = np.array([[_sum_of(raw[task]), _sum_of(left[task])] for task in raw])
    drawn = resampled_sums(rows.reshape(len(rows), -1), seed=0, resamples=_RESAMPLES)
    before, after = _components(np.concatenate([rows.sum(0)[None], drawn.reshape(-1, 2, _COLUMNS)]))[0].T
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = 1 - after / before
    low, high = interval(shares[1:]) or (math.nan, math.nan)
    return float(shares[0]), low, high


def _sum_of(turns: Iterable[Rewards]) -> Array:
    """Return the sums of `_sums_of_squares` over turns, without the candidates that have no reward."""
    return sum((_sums_of_squares([group for group in turn if group]) for turn in turns), np.zeros(_COLUMNS))


def _components(sums: Array) -> tuple[Array, Array]:
    """Return the variances between and within candidates, from sums of shape (..., 5); NaN where they are unknown."""
    within_squares, within_freedom, between_squares, between_freedom, coefficient = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        within = within_squares / within_freedom
        between = np.maximum((between_squares - between_freedom * within) / coefficient, 0)
    known = (within_freedom > 0) & (coefficient > 0)
    return np.where(known, between, np.nan), np.where(known, within, np.nan)


def _components_or_none(sums: Array) -> Components | None:
    between, within = _components(sums)
    if not between + within > 0:  # Nothing varies, or nothing is known: NaN.
        return None
    return Components(between=float(between), within=float(within))


def _estimate(sums: Array, resampled: Array | None, futures: float) -> ScoreReliability:
    components = _components_or_none(sums)
    if components is None:
        return _UNKNOWN
    found = None
    if resampled is not None:
        drawn, noise = _components(resampled)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = interval(drawn / (drawn + noise / futures))
    low, high = found or (None, None)
    return ScoreReliability(components=components, value=components.reliability(futures), low=low, high=high)


def _chosen_is_best(
    chosen: int, rewards: Sequence[float | None], counts: Sequence[int], components: Components | None
) -> float | None:
    there = [index for index, reward in enumerate(rewards) if reward is not None]
    if components is None or chosen not in there or len(there) < 2:
        return None
    drawn = true_rewards([rewards[index] or 0.0 for index in there], [counts[index] for index in there], components)
    return round(best_shares(drawn)[there.index(chosen)], 3)


@dataclass(frozen=True)
class Prior:
    """What a value model expects of a turn's candidates before any of their futures, see `trajectories.Expected`."""

    means: Sequence[float]
    variances: Sequence[float]

    @classmethod
    def of(cls, expected: Sequence[Expected | None]) -> "Prior | None":
        """Return the prior of these candidates, or None if nothing is expected of one of them."""
        known = [one for one in expected if one is not None]
        if len(known) < len(expected):
            return None
        return cls([one.mean for one in known], [one.variance for one in known])


def true_rewards(
    means: Sequence[float], counts: Sequence[int], components: Components, prior: Prior | None = None
) -> Array:
    """Draw the candidates' true rewards, given the means of their futures.

    They are normal around the turn's mean, whose prior is flat, so that means of few futures are shrunk towards it. A
    `prior` adds what it expects of each candidate to the turn's mean. The same arguments give the same draws.

    Args:
        means: Of each candidate's futures.
        counts: The number of each candidate's futures. It may be 0 with a prior; the mean then has no effect.
        components: The variances of rewards. With a prior, only the one within candidates has an effect.
        prior: What is expected of each candidate; by default the same of all.

    Returns:
        Draws of shape (4096, candidates).
    """
    expected, spread, above, weights = _against_prior(means, counts, components, prior)
    normals = _normals(len(expected))
    total = weights.sum()
    turn = (weights * above).sum() / total + normals[:, :1] / np.sqrt(total) if total else 0.0
    # After n futures; without noise it is exactly 0, so that equal candidates stay equal.
    noise = np.array(counts) * spread + components.within
    left = np.divide(spread * components.within, noise, out=np.zeros_like(spread), where=noise > 0)
    left = np.where(np.array(counts) > 0, left, spread)
    return expected + turn + spread * weights * (above - turn) + np.sqrt(left) * normals[:, 1:]


def shrunk_means(
    means: Sequence[float], counts: Sequence[int], components: Components, prior: Prior | None = None
) -> list[float]:
    """Return the expected true rewards of the candidates, given the means of their futures. See `true_rewards`."""
    expected, spread, above, weights = _against_prior(means, counts, components, prior)
    turn = (weights * above).sum() / weights.sum() if weights.any() else 0.0
    return (expected + turn + spread * weights * (above - turn)).tolist()


def _against_prior(
    means: Sequence[float], counts: Sequence[int], components: Components, prior: Prior | None
) -> tuple[Array, Array, Array, Array]:
    """Return by candidate the expected reward, its variance, by how much the futures are above it, and their weight."""
    number = np.array(counts, dtype=float)
    expected = np.zeros(len(number)) if prior is None else np.array(prior.means, dtype=float)
    spread = np.full(len(number), components.between) if prior is None else np.array(prior.variances, dtype=float)
    noise = number * spread + components.within
    weights = np.divide(number, noise, out=number.copy(), where=noise > 0)  # Without any noise all count the same.
    above = np.where(number > 0, np.array(means, dtype=float) - expected, 0.0)
    return expected, spread, above, weights


def best_shares(drawn: Array) -> list[float]:
    """Return for each candidate the share of draws in which it is the best. Candidates that are equal share a draw."""
    best = drawn == drawn.max(axis=1, keepdims=True)
    return (best / best.sum(axis=1, keepdims=True)).mean(axis=0).tolist()


def better_probability(drawn: Array, one: int, other: int) -> float:
    """Return the share of draws in which a candidate is better than another one. Equal ones share a draw."""
    first, second = drawn[:, one], drawn[:, other]
    return float((first > second).mean() + (first == second).mean() / 2)


@lru_cache(maxsize=16)
def _normals(candidates: int) -> Array:
    half = np.random.default_rng(0).standard_normal((_DRAWS // 2, candidates + 1))
    return np.concatenate([half, -half])


def _count(futures: float) -> str:
    return f"{futures:.3g} future" + "s" * (round(futures, 2) != 1)


def _between(found: ScoreReliability) -> str:
    return "" if found.low is None or found.high is None else f" ({found.low:.2f} to {found.high:.2f})"
