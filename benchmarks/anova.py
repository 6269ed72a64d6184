"""Variance components of nested and crossed rewards, with 95% bootstrap intervals over tasks.

Every analysis turns a task's rewards into a row of sums, adds the rows of all tasks up, and computes its results from
those sums. Rewards are arrays whose first axis is the candidates of one turn. Estimates of variances are unbiased, so
that those of small variances may be below 0.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collab_agents._internal.bootstrap import interval, resampled_sums

Array = NDArray[np.float64]
_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


def estimates(rows: Sequence[Array], of: Callable[[Array], Array]) -> list[Estimate]:
    """Return what `of` computes from the sum of all rows, each result with its interval over rows.

    Args:
        rows: A row of sums for each task.
        of: Maps sums of shape (..., columns) to results of shape (..., results).
    """
    stacked = np.array(rows, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = of(stacked.sum(axis=0))
        drawn = of(resampled_sums(stacked, seed=0, resamples=_RESAMPLES))
    return [
        Estimate(float(value), *(interval(column) or (math.nan, math.nan)))
        for value, column in zip(values, drawn.T, strict=True)
    ]


def mean_of(sums: Array) -> Array:
    """Return the means of all columns but the last, which counts."""
    return sums[..., :-1] / sums[..., -1:]


def one_way(groups: Array) -> Array:
    """Return the sums of a one-way analysis of variance of groups (rows), without the values that are NaN.

    They are the sum of squares within groups and its degrees of freedom, the same between groups, and the coefficient
    of the variance between groups in the expectation of the latter sum (Searle, Casella and McCulloch, Variance
    Components, 1992, section 3.6).
    """
    groups = groups[np.isfinite(groups).any(axis=1)]
    if not len(groups):
        return np.zeros(5)
    counts = np.isfinite(groups).sum(axis=1)
    total = counts.sum()
    means = np.nanmean(groups, axis=1)
    within = np.nansum((groups - means[:, None]) ** 2)
    between = (counts * (means - (counts * means).sum() / total) ** 2).sum()
    coefficient = total - (counts**2).sum() / total
    return np.array([within, total - len(groups), between, len(groups) - 1, coefficient])


def components(sums: Array) -> tuple[Array, Array]:
    """Return the variances between and within groups, from sums of `one_way`."""
    within_squares, within_freedom, between_squares, between_freedom, coefficient = np.moveaxis(sums, -1, 0)
    within = within_squares / within_freedom
    return (between_squares - between_freedom * within) / coefficient, within


def crossed(rewards: Array) -> Array:
    """Return the sums of a two-way analysis of variance within candidates, from rewards by candidate, row and column.

    They are the sums of squares and degrees of freedom of rows, of columns and of the rest, the number of rows and of
    columns times the number of candidates, the sum of the squares of the candidates' summed deviations in each cell,
    and that of the pairs of candidates over the number of candidates.
    """
    candidates, rows, columns = rewards.shape
    centred = rewards - rewards.mean(axis=(1, 2), keepdims=True)
    by_row, by_column = centred.mean(axis=2), centred.mean(axis=1)
    rest = centred - by_row[:, :, None] - by_column[:, None, :]
    return np.array(
        [
            columns * (by_row**2).sum(),
            candidates * (rows - 1),
            rows * (by_column**2).sum(),
            candidates * (columns - 1),
            (rest**2).sum(),
            candidates * (rows - 1) * (columns - 1),
            candidates * rows,
            candidates * columns,
            (centred.sum(axis=0) ** 2).sum(),
            candidates * (candidates - 1),
            candidates,
        ]
    )


def crossed_results(sums: Array) -> Array:
    """Return what `crossed` sums say of rewards.

    It is the variance of rows, of columns and of the rest, the share of each in their total, and the correlation of two
    candidates' rewards in the same cell.
    """
    row_squares, row_freedom, column_squares, column_freedom, squares, freedom, rows, columns, summed, pairs, count = (
        np.moveaxis(sums, -1, 0)
    )
    rest = squares / freedom
    of_rows = (row_squares / row_freedom - rest) / (columns / count)
    of_columns = (column_squares / column_freedom - rest) / (rows / count)
    total = of_rows + of_columns + rest
    all_squares = row_squares + column_squares + squares
    correlation = (summed - all_squares) / all_squares * count / pairs
    parts = [of_rows, of_columns, rest]
    return np.stack([*parts, *(part / total for part in parts), correlation], axis=-1)


def agreement(rewards: Array, truth: Array) -> Array:
    """Return the sums for comparing candidates' rewards with others: `one_way` of both, and the products of means."""
    means, true = rewards.mean(axis=1), truth.mean(axis=1)
    product = ((means - means.mean()) * (true - true.mean())).sum()
    raw = [((means - means.mean()) ** 2).sum(), ((true - true.mean()) ** 2).sum()]
    return np.concatenate([one_way(rewards), one_way(truth), [product, *raw, len(means) - 1]])


def agreement_results(sums: Array) -> Array:
    """Return what `agreement` sums say of the rewards.

    It is their variance between and within candidates, the reliability of means of 1, 3 and 6, the correlation of
    their means with the others', and the same without the noise of means.
    """
    between, within = components(sums[..., :5])
    true_between, _ = components(sums[..., 5:10])
    product, squares, true_squares, freedom = np.moveaxis(sums[..., 10:], -1, 0)
    return np.stack(
        [
            between,
            within,
            *(between / (between + within / k) for k in (1, 3, 6)),
            product / np.sqrt(squares * true_squares),
            product / freedom / np.sqrt(between * true_between),
        ],
        axis=-1,
    )


def picks(rewards: Array, truth: Array, k: int, *, repeats: int = 200, seed: int = 0) -> Array:
    """Return how good the choice by k of each candidate's rewards is, averaged over draws of k.

    Candidates are as good as the means of `truth` say. Its noise makes the first result too low and the second too
    high, whatever the rewards are; the third is unbiased.

    Returns:
        The share of draws that pick the best candidate, how much worse than the best the chosen one is, how much better
        than the mean of the candidates it is, and 1 to count.
    """
    random = np.random.default_rng(seed)
    drawn = random.permuted(np.broadcast_to(rewards, (repeats, *rewards.shape)), axis=2)[..., :k].mean(axis=2)
    chosen = (drawn + random.normal(scale=1e-9, size=drawn.shape)).argmax(axis=1)  # Equal ones have equal chances.
    true = truth.mean(axis=1)
    got = true[chosen]
    return np.array([(got == true.max()).mean(), true.max() - got.mean(), got.mean() - true.mean(), 1])


def dealt_results(strata: int, sizes: Sequence[int]) -> Callable[[Array], Array]:
    """Return the function from `one_way` sums by stratum to what dealing the strata evenly does to means of futures.

    The strata are all that there are, equally likely. With k futures, drawing them gives a mean of variance

        (S^2 (1 - 1 / strata) + within) / k

    and dealing them, k = q strata + r of them, (S^2 r (1 - r / strata) / k + within) / k, where S^2 is the variance
    between strata (Cochran, Sampling Techniques, 1977, sections 2.6 and 5.3). It returns S^2, the variance within, and
    for each k the ratio of the two.
    """

    def results(sums: Array) -> Array:
        between, within = components(sums)
        drawn = between * (1 - 1 / strata) + within
        ratios = []
        for k in sizes:
            rest = k % strata
            ratios.append((between * rest * (1 - rest / strata) / k + within) / drawn)
        return np.stack([between, within, *ratios], axis=-1)

    return results


def paired(pairs: Array) -> Array:
    """Return the sums for the correlation within pairs, from rewards by candidate, pair and member.

    They are the products of the deviations from the candidate's mean, their mean squares over members, and the degrees
    of freedom of each.
    """
    count = pairs.shape[1]
    centred = pairs - pairs.mean(axis=1, keepdims=True)
    product = centred[..., 0] * centred[..., 1]
    return np.array([product.sum(), (centred**2).sum() / 2, len(pairs) * (count - 1)])


def paired_results(sums: Array) -> Array:
    """Return the variance of a reward, its correlation within pairs, and the ratio of the variances of means.

    The ratio is that of a pair's mean to the mean of two independent futures.
    """
    product, squares, freedom = np.moveaxis(sums, -1, 0)
    return np.stack([squares / freedom, product / squares, 1 + product / squares], axis=-1)


def nested(verdicts: Array) -> Array:
    """Return the sums of a nested analysis of variance of verdicts by candidate, future and sample; NaN is none."""
    by_future = sum((one_way(each) for each in verdicts), np.zeros(5))
    there = np.isfinite(verdicts)
    counts = there.sum(axis=2)
    scored = counts > 0
    means = np.where(scored, np.where(there, verdicts, 0).sum(axis=2) / np.maximum(counts, 1), np.nan)
    return np.concatenate([by_future, one_way(means), [there.sum(), there.size]])


def nested_results(sums: Array) -> Array:
    """Return the variances between candidates, between a candidate's futures, between a future's verdicts; and more.

    The rest is the reliability of one verdict on a future and of one verdict on each of 6 futures, and the share of
    verdicts that were usable.
    """
    futures, samples = components(sums[..., :5])
    candidates, _ = components(sums[..., 5:10])
    noise = futures + samples
    usable = sums[..., 10] / sums[..., 11]
    reliabilities = [candidates / (candidates + noise / k) for k in (1, 6)]
    return np.stack([candidates, futures, samples, *reliabilities, usable], axis=-1)


def best_samples(futures: float, samples: float, per_future: float, per_sample: float) -> tuple[float, int, float]:
    """Return how many verdicts a future should get, and what that saves at equal variance against one.

    The optimum of two-stage sampling, sqrt(per_future / per_sample * samples / futures) (Cochran, Sampling Techniques,
    1977, section 10.6), with the costs of a future and of a verdict, and the variances of both.

    Returns:
        The optimum, the best whole number (at most 10), and the share of the cost that it saves.
    """
    futures, samples = max(futures, 0), max(samples, 0)
    optimum = math.sqrt(per_future / per_sample * samples / futures) if futures else math.inf

    def cost(number: int) -> float:
        return (futures + samples / number) * (per_future + number * per_sample)

    best = min(range(1, 11), key=cost)
    return optimum, best, 1 - cost(best) / cost(1) if cost(1) else 0.0
