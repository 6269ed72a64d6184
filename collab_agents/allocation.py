"""Which candidates of a turn get further futures, and which is chosen when they have different numbers of them.

Futures go where the choice is open, as in top-two Thompson sampling (Russo, 2020): half of a batch to the candidate
that is the best so far, the rest to its challengers, by the probability that each is the best. It ends when the leader
is good enough with the probability `Lookahead.confidence` (the probability of good selection: Ni, Ciocan, Henderson and
Hunter, 2017).
"""

from collections.abc import Sequence

import numpy as np

from collab_agents.lookahead import Components, Lookahead
from collab_agents.variance import best_shares, shrunk_means, true_rewards

_SHARE = 4
"""A batch is this part of the futures so far, so that few rounds are needed."""
_LEAST = 2

Rewards = Sequence[Sequence[float | None]]
"""A turn's rewards, by candidate and future; None for a future that failed."""


def further_futures(rewards: Rewards, components: Components | None, lookahead: Lookahead) -> list[int]:
    """Return how many futures each candidate gets next: all 0 if the turn is decided.

    Args:
        rewards: Those of the futures so far. A candidate without any gets no futures.
        components: The variances of rewards. If they are unknown, nothing can be decided, and no future is added.
        lookahead: When to stop.
    """
    more = [0] * len(rewards)
    there = [index for index, each in enumerate(rewards) if _scored(each)]
    if components is None or lookahead.allocation == "uniform" or len(there) < 2:
        return more
    means, counts = _means([rewards[index] for index in there])
    drawn = true_rewards(means, counts, components)
    leader = int(np.argmax(shrunk_means(means, counts, components)))
    good = drawn[:, leader] >= drawn.max(axis=1) - lookahead.indifference
    if good.mean() >= lookahead.confidence:
        return more
    left = [max(0, lookahead.most_futures - len(rewards[index])) for index in there]
    batch = max(_LEAST, sum(len(each) for each in rewards) // _SHARE)
    for place, count in enumerate(_split(batch, leader, best_shares(drawn), left)):
        more[there[place]] = count
    return more


def _split(batch: int, leader: int, shares: Sequence[float], left: Sequence[int]) -> list[int]:
    """Split a batch: half to the leader, the rest to the others by their shares, and no more than each has left."""
    given = [0] * len(left)
    given[leader] = min(batch // 2, left[leader])
    for place in sorted(range(len(left)), key=lambda one: -shares[one]):
        if place == leader:
            continue
        others = sum(share for one, share in enumerate(shares) if one != leader) or 1.0
        wanted = max(1, round((batch - batch // 2) * shares[place] / others))
        given[place] = min(wanted, left[place], batch - sum(given))
    return given


def best_candidate(rewards: Rewards, components: Components | None) -> int | None:
    """Return the index of the candidate with the highest expected reward, or None if none has a reward.

    A mean of few futures is shrunk more than one of many. With equal numbers of futures it is the highest mean.
    """
    there = [index for index, each in enumerate(rewards) if _scored(each)]
    if not there:
        return None
    means, counts = _means([rewards[index] for index in there])
    expected = means if components is None else shrunk_means(means, counts, components)
    best = max(range(len(there)), key=lambda place: (expected[place], means[place]))
    return there[best]


def _scored(futures: Sequence[float | None]) -> list[float]:
    return [one for one in futures if one is not None]


def _means(rewards: Rewards) -> tuple[list[float], list[int]]:
    scored = [_scored(each) for each in rewards]
    return [sum(each) / len(each) for each in scored], [len(each) for each in scored]
