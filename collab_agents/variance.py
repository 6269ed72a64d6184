"""How far rewards tell candidates apart: variance components, reliability, and which candidate is the best.

The reward of future j of candidate i in turn t is taken as mu_t + c_ti + e_tij, a one-way random effects model within
turns. Its two variances, `between` candidates (of c) and `within` a candidate (of e), are pooled over turns and
estimated from sums of squares (Searle, Casella and McCulloch, Variance Components, 1992, section 3.6). The mean of k
futures then tells candidates apart with the reliability between / (between + within / k).
"""

import math
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from hashlib import shake_128
from typing import Any, Self

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
_WEIGHTED = 1000
"""The number of resamples of a tally."""
_BATCH = 256
"""How many trajectories a tally adds up at once."""
_SAMPLE = 10_000
"""The number of turns in a tally's sample."""
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
    """The mean of `chosen_probabilities` over the turns, or over a sample of 10,000 if there are more."""
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


def chosen_probabilities(turns: Iterable[Turn], components: Components | None) -> list[float | None]:
    """Return for each turn the probability that the chosen candidate has the highest true reward.

    Args:
        turns: The turns.
        components: The variances of the run's rewards, such as `reliability(...).reward.components`.

    Returns:
        By turn; None if it had no choice, the components are unknown, or a person replied.
    """
    choices = [_choice_in(turn) for turn in turns]
    return [_chosen_is_best(*choice, components) if choice and components else None for choice in choices]


class ReliabilityTally:
    """What `reliability` needs to know of trajectories, in memory that does not grow with their number.

    The intervals are those of the Poisson bootstrap (Chamandy, Muralidharan, Najmi and Naidu, Estimating Uncertainty
    for Massive Data Streams, 2012): a resample counts each task as often as a Poisson(1) variable says, which is drawn
    by a hash of its id. So neither the order of trajectories nor their division into several tallies has an effect.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Array] = {}
        """By score, `_sums_of_squares` of all tasks in the first row and of each resample in the others."""
        self._pending: dict[str, _Scores] = {}
        self._draws: list[bytes] = []
        """Of each pending trajectory: 16 bits for each resample."""
        self._sample: list[_Sampled] = []
        """The turns with the lowest hashes: all of the sample, and up to as many others."""
        self._limit = 2**64
        """No turn whose hash is higher can be in the sample."""
        self._tasks = (2**64, -1)
        """The lowest and the highest hash of a task."""
        self._turns = self._candidates = self._futures = self._calls = self._sampled = 0

    def add(self, task_id: str, turns: Sequence[Turn], calls: int) -> None:
        """Count a trajectory's turns, and the model calls that it took."""
        self._calls += calls
        if not turns:
            return
        # As many bytes as wanted, of which the first ones are the same for every trajectory of a task.
        digest = shake_128(task_id.encode(errors="surrogatepass")).digest(2 * _WEIGHTED + 8 * len(turns))
        self._seen(int.from_bytes(digest[:8], "big"))
        row = len(self._draws)
        self._draws.append(digest[: 2 * _WEIGHTED])
        for number, turn in enumerate(turns):
            self._sampled += len(turn.candidates)
            for name, groups in _scores_in(turn).items():
                if name not in self._pending:
                    self._pending[name] = _Scores()
                self._pending[name].add(row, groups)
            if choice := _choice_in(turn):
                at = 2 * _WEIGHTED + 8 * number
                self._keep((int.from_bytes(digest[at : at + 8], "big"), *choice))
            counts = [one.scored for one in turn.candidates if one.reward is not None]
            if len(counts) > 1:
                self._turns += 1
                self._candidates += len(counts)
                self._futures += sum(counts)
        if len(self._draws) >= _BATCH:
            self._fold()

    def merge(self, other: "ReliabilityTally") -> None:
        """Add all that another tally counted."""
        self._fold()
        other._fold()
        for name, sums in other._sums.items():
            self._sums[name] = self._sums.get(name, 0) + sums
        for one in other._sample:
            self._keep(one)
        for task in other._tasks if other._tasks[1] >= 0 else ():
            self._seen(task)
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def dump(self) -> dict[str, Any]:
        """Return the tally as a JSON value for `load`. It has at most about a megabyte."""
        self._fold()
        return {
            "sums": {name: b64encode(one.astype("<f8").tobytes()).decode() for name, one in self._sums.items()},
            "sample": sorted(self._sample)[:_SAMPLE],
            "tasks": self._tasks,
            "counts": [getattr(self, name) for name in _COUNTS],
        }

    @classmethod
    def load(cls, value: Mapping[str, Any]) -> Self:
        """Return the tally that `dump` returned as a JSON value.

        Raises:
            ValueError: If it was dumped by a version that counted otherwise.
        """
        tally = cls()
        try:
            for name, text in value["sums"].items():
                tally._sums[name] = np.frombuffer(b64decode(text), "<f8").astype(float).reshape(_WEIGHTED + 1, _COLUMNS)
            for place, chosen, rewards, counts in value["sample"]:
                tally._keep((place, chosen, rewards, counts))
            tally._tasks = tuple(value["tasks"])
            for name, count in zip(_COUNTS, value["counts"], strict=True):
                setattr(tally, name, count)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"not the dump of a tally: {error!r}") from error
        return tally

    def components(self) -> Components | None:
        """Return the variances of the reward, if they are known."""
        self._fold()
        return _components_or_none(self._sums[_REWARD][0]) if _REWARD in self._sums else None

    def result(self) -> Reliability:
        """Estimate from all that was counted."""
        self._fold()
        futures = self._futures / self._candidates if self._candidates else None
        several = self._tasks[0] < self._tasks[1]
        found = {
            name: _UNKNOWN if futures is None else _estimate(sums[0], sums[1:] if several else None, futures)
            for name, sums in self._sums.items()
        }
        reward = found.pop(_REWARD, _UNKNOWN)
        known = [
            _chosen_is_best(chosen, rewards, counts, reward.components)
            for _, chosen, rewards, counts in sorted(self._sample)[:_SAMPLE]
            if reward.components
        ]
        return Reliability(
            turns=self._turns,
            futures=futures,
            reward=reward,
            judges=found,
            chosen_is_best=sum(known) / len(known) if known else None,
            share_of_futures=(self._calls - self._sampled) / self._calls if self._calls > self._sampled else None,
        )

    def _seen(self, task: int) -> None:
        lowest, highest = self._tasks
        self._tasks = min(task, lowest), max(task, highest)

    def _keep(self, turn: "_Sampled") -> None:
        if turn[0] > self._limit:
            return
        self._sample.append(turn)
        if len(self._sample) >= 2 * _SAMPLE:
            self._sample.sort()
            del self._sample[_SAMPLE:]
            self._limit = self._sample[-1][0]

    def _fold(self) -> None:
        """Add the pending trajectories to the sums."""
        if not self._draws:
            return
        weights = _poisson()[np.frombuffer(b"".join(self._draws), "<u2")].reshape(len(self._draws), _WEIGHTED)
        for name, scores in self._pending.items():
            rows = scores.sums_of_squares(len(self._draws))
            sums = self._sums.setdefault(name, np.zeros((_WEIGHTED + 1, _COLUMNS)))
            sums[0] += rows.sum(0)
            sums[1:] += weights.T @ rows
        self._pending.clear()
        self._draws.clear()


_Sampled = tuple[int, int, list[float], list[int]]
"""A turn's hash, its choice (see `_choice_in`), and its candidates' rewards and numbers of futures."""
_COUNTS = ("_turns", "_candidates", "_futures", "_calls", "_sampled")
_REWARD = ""
"""Stands for the reward among the judges' names, none of which is empty."""
_COLUMNS = 5
_UNKNOWN = ScoreReliability(components=None, value=None, low=None, high=None)


@cache
def _poisson() -> Array:
    """Return the Poisson(1) variable for each number of 16 bits."""
    cumulated = np.cumsum([math.exp(-1) / math.factorial(count) for count in range(9)])
    return np.searchsorted(cumulated, (np.arange(2**16) + 0.5) / 2**16).astype(float)


def _scores_in(turn: Turn) -> dict[str, list[list[float]]]:
    """Return by judge, and for the reward, the values of each candidate's futures that count.

    Futures that were added where the choice was open are left out: the components would be biased.
    """
    found: dict[str, list[list[float]]] = {_REWARD: [[] for _ in turn.candidates]}
    for index, candidate in enumerate(turn.candidates):
        for future in candidate.futures[: turn.first_futures]:
            if future.reward is None or not future.counts:
                continue
            found[_REWARD][index].append(future.reward)
            for name, score in future.scores.items():
                if name not in found:
                    found[name] = [[] for _ in turn.candidates]
                if score is not None:
                    found[name][index].append(score)
    return found


def _choice_in(turn: Turn) -> tuple[int, list[float], list[int]] | None:
    """Return which of the candidates with a reward was chosen, and their rewards and numbers of futures.

    None if there are fewer than two, or the choice is none of them.
    """
    there = [one for one in turn.candidates if one.reward is not None]
    chosen = [one for one in turn.candidates[: turn.chosen] if one.reward is not None]
    if len(there) < 2 or not 0 <= turn.chosen < len(turn.candidates) or turn.candidates[turn.chosen].reward is None:
        return None
    return len(chosen), [one.reward for one in there if one.reward is not None], [one.scored for one in there]


@dataclass
class _Scores:
    """The values of one score in many turns."""

    values: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """How many values each group has."""
    groups: list[int] = field(default_factory=list)
    """How many groups each turn has."""
    rows: list[int] = field(default_factory=list)
    """To which row of the sums each turn is added."""

    def add(self, row: int, groups: Rewards) -> None:
        """Add a turn's values by group, without empty groups."""
        before = len(self.sizes)
        for group in groups:
            if group:
                self.values += group
                self.sizes.append(len(group))
        if len(self.sizes) > before:
            self.groups.append(len(self.sizes) - before)
            self.rows.append(row)

    def sums_of_squares(self, rows: int) -> Array:
        """Return the sums over each row's turns of the five numbers below, of shape (rows, 5).

        They are the sum of squares within groups, its degrees of freedom, the same between groups, and a coefficient.
        The expected sum of squares between groups is the coefficient times the variance between groups, and the degrees
        of freedom times the variance within.
        """
        found = np.zeros((rows, _COLUMNS))
        if not self.rows:
            return found
        sizes, groups = np.array(self.sizes), np.array(self.groups)
        turn_starts = np.cumsum(groups) - groups  # Among the groups.
        group_starts = np.cumsum(sizes) - sizes  # Among the values.
        first = group_starts[turn_starts]
        totals = np.add.reduceat(sizes, turn_starts)
        values = np.array(self.values, dtype=float)
        values -= np.repeat(values[first], totals)  # Equal values are exactly 0 then.
        means = np.add.reduceat(values, group_starts) / sizes
        grand = np.add.reduceat(sizes * means, turn_starts) / totals
        within = np.add.reduceat((values - np.repeat(means, sizes)) ** 2, first)
        between = np.add.reduceat(sizes * (means - np.repeat(grand, groups)) ** 2, turn_starts)
        coefficients = totals - np.add.reduceat(sizes**2, turn_starts) / totals
        np.add.at(found, self.rows, np.column_stack([within, totals - groups, between, groups - 1, coefficients]))
        return found


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
    """Return the sums of squares of all turns (see `_Scores`), without the candidates that have no reward."""
    scores = _Scores()
    for turn in turns:
        scores.add(0, turn)
    return scores.sums_of_squares(1)[0]


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


def _chosen_is_best(chosen: int, rewards: Sequence[float], counts: Sequence[int], components: Components) -> float:
    return round(best_shares(true_rewards(rewards, counts, components))[chosen], 3)


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
    # One row a candidate: three times as fast as one column.
    expected, spread, above, weights = (one[:, None] for one in _against_prior(means, counts, components, prior))
    number = np.array(counts)[:, None]
    normals = _normals(len(expected))
    total = weights.sum()
    turn = (weights * above).sum() / total + normals[:1] / np.sqrt(total) if total else 0.0
    # After n futures; without noise it is exactly 0, so that equal candidates stay equal.
    noise = number * spread + components.within
    left = np.divide(spread * components.within, noise, out=np.zeros_like(spread), where=noise > 0)
    left = np.where(number > 0, left, spread)
    return (expected + turn + spread * weights * (above - turn) + np.sqrt(left) * normals[1:]).T


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
    return np.ascontiguousarray(np.concatenate([half, -half]).T)


def _count(futures: float) -> str:
    return f"{futures:.3g} future" + "s" * (round(futures, 2) != 1)


def _between(found: ScoreReliability) -> str:
    return "" if found.low is None or found.high is None else f" ({found.low:.2f} to {found.high:.2f})"
