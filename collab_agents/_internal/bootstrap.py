"""Resampling for percentile bootstrap intervals (Efron and Tibshirani, 1993, chapter 13)."""

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 1_000
Array = NDArray[np.float64]


def resampled_sums(rows: Array, seed: int, resamples: int = 10_000) -> Array:
    """Draw the rows with replacement, as many as there are, and add them up; this many times.

    Args:
        rows: Summands of shape (rows, columns).
        seed: Decides the draws.
        resamples: How many sums to return, in thousands.

    Returns:
        Sums of shape (resamples, columns).
    """
    count = len(rows)
    random = np.random.default_rng(seed)
    sums = np.zeros((resamples, rows.shape[1]))
    for start in range(0, resamples, _AT_ONCE) if count else ():
        weights = random.multinomial(count, np.full(count, 1 / count), size=_AT_ONCE).astype(float)
        sums[start : start + _AT_ONCE] = weights @ rows
    return sums


def interval(drawn: Array) -> tuple[float, float] | None:
    """Return the 95% percentile interval of resampled values, NaN apart, or None if all are NaN."""
    there = drawn[np.isfinite(drawn)]
    if not there.size:
        return None
    low, high = np.percentile(there, [2.5, 97.5])
    return float(low), float(high)
