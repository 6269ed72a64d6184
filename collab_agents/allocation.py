"""Which candidates of a turn get further futures, and which is chosen when they have different numbers of them.

A future goes to the candidate where it raises the expected reward of the choice the most: the knowledge gradient
(Frazier, Powell and Dayanik, 2008). Since one future alone often changes nothing, its gain is the best mean gain of up
to 8 more (Frazier and Powell, 2010). A turn is decided when no gain reaches `Lookahead.minimum_gain`, or when the
leader is good enough with the probability `Lookahead.confidence` (Ni, Ciocan, Henderson and Hunter, 2017). The noise is
that of the turn, `variance.components_in`.
"""

import math
from collections.abc import Sequence

import numpy as np

from collab_agents.lookahead import Components, Lookahead
from collab_agents.trajectories import Expected
from collab_agents.variance import Prior, components_in, shrunk_means, true_rewards

_SHARE = 4
"""A batch is this part of the futures so far, so that few rounds are needed."""
_LEAST = 2
_AHEAD = (1, 2, 4, 8)
_MINIMUM_GAIN = 0.005
"""The default, in standard deviations between candidates."""

Rewards = Sequence[Sequence[float | None]]
"""A turn's rewards, by candidate and future; None for a future that failed."""

Expectations = Sequence[Expected | None] | None
"""What a value model expects, by candidate; None without one, or for a candidate that failed."""


def further_futures(
    rewards: Rewards, components: Components | None, lookahead: Lookahead, expected: Expectations = None
) -> list[int]:
    """Return how many futures each candidate gets next: all 0 if the turn is decided.

    Args:
        rewards: Those of the futures so far. A candidate without any gets no futures.
        components: The variances of rewards. If they are unknown or 0, no future is added.
        lookahead: When to stop.
        expected: What a value model expects of each candidate.
    """
    more = [0] * len(rewards)
    there = [index for index, each in enumerate(rewards) if _scored(each)]
    if lookahead.allocation == "uniform" or len(there) < 2:
        return more
    if components is None or not components.between or not components.within:
        return more
    scored = [_scored(rewards[index]) for index in there]
    components = components_in(scored, components)
    means, counts = _means(scored)
    prior = _prior(expected, there)
    likely = shrunk_means(means, counts, components, prior)
    if _is_decided(means, counts, int(np.argmax(likely)), components, lookahead, prior):
        return more
    least = lookahead.minimum_gain
    if least is None:
        least = _MINIMUM_GAIN * math.sqrt(components.between)
    spread = [components.between] * len(there) if prior is None else prior.variances
    left = [lookahead.most_futures - len(rewards[index]) for index in there]
    for _ in range(max(_LEAST, sum(counts) // _SHARE)):
        gains = [
            _gain(likely, place, count, spread[place], components.within) if left[place] > 0 else 0.0
            for place, count in enumerate(counts)
        ]
        best = int(np.argmax(gains))
        if gains[best] <= least:
            break
        counts[best] += 1
        left[best] -= 1
        more[there[best]] += 1
    return more


def sure_choice(expected: Sequence[Expected], components: Components, lookahead: Lookahead) -> int | None:
    """Return the index of the best candidate if what is expected says with `confidence` that it is a good choice."""
    prior, nothing = Prior.of(expected), [0] * len(expected)
    if prior is None:
        return None
    leader = int(np.argmax(prior.means))
    return leader if _is_decided(nothing, nothing, leader, components, lookahead, prior) else None


def _is_decided(
    means: Sequence[float],
    counts: Sequence[int],
    leader: int,
    components: Components,
    lookahead: Lookahead,
    prior: Prior | None,
) -> bool:
    drawn = true_rewards(means, counts, components, prior)
    good = drawn[:, leader] >= drawn.max(axis=1) - lookahead.indifference
    return bool(good.mean() >= lookahead.confidence)


def _gain(expected: Sequence[float], place: int, count: int, spread: float, within: float) -> float:
    """Return by how much a further future of a candidate raises the expected reward of the best."""
    best_other = max(one for other, one in enumerate(expected) if other != place)
    distance = abs(expected[place] - best_other)
    now = _variance(count, spread, within)
    return max(_expected_rise(distance, now - _variance(count + more, spread, within)) / more for more in _AHEAD)


def _variance(count: int, spread: float, within: float) -> float:
    """Return the variance of a candidate's true reward after so many futures."""
    return spread / (1 + count * spread / within)


def _expected_rise(distance: float, variance: float) -> float:
    """Return E[max(x - distance, 0)] of a normal x with this variance."""
    deviation = math.sqrt(variance)
    if not deviation:
        return 0.0
    far = -distance / deviation
    density = math.exp(-(far**2) / 2) / math.sqrt(2 * math.pi)
    return deviation * (far * math.erfc(-far / math.sqrt(2)) / 2 + density)


def best_candidate(rewards: Rewards, components: Components | None, expected: Expectations = None) -> int | None:
    """Return the index of the candidate with the highest expected reward, or None if none has a reward.

    A mean of few futures is shrunk more than one of many, towards what a value model expected if there is one. Without
    a value model and with equal numbers of futures it is the highest mean.
    """
    there = [index for index, each in enumerate(rewards) if _scored(each)]
    if not there:
        return None
    means, counts = _means([rewards[index] for index in there])
    likely = means if components is None else shrunk_means(means, counts, components, _prior(expected, there))
    best = max(range(len(there)), key=lambda place: (likely[place], means[place]))
    return there[best]


def _prior(expected: Expectations, there: Sequence[int]) -> Prior | None:
    return Prior.of([expected[index] for index in there]) if expected is not None else None


def _scored(futures: Sequence[float | None]) -> list[float]:
    return [one for one in futures if one is not None]


def _means(rewards: Rewards) -> tuple[list[float], list[int]]:
    scored = [_scored(each) for each in rewards]
    return [sum(each) / len(each) for each in scored], [len(each) for each in scored]
