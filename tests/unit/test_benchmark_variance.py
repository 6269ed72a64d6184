"""What benchmarks/variance.py computes, on rewards whose variances are known."""

import math
import random

import numpy as np
import pytest

from benchmarks import anova
from benchmarks.anova import Array, estimates
from benchmarks.variance import Direct, Mirrored

TASKS = 1000


def normal(seed: int, variance: float, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(scale=math.sqrt(variance), size=shape)


def test_crossed_rewards_show_the_shares_of_rows_columns_and_the_rest() -> None:
    shared = normal(0, 0.1, TASKS, 1, 6, 5)
    rewards = normal(1, 0.2, TASKS, 4, 6, 1) + normal(2, 0.4, TASKS, 4, 1, 5) + normal(3, 0.3, TASKS, 4, 6, 5) + shared
    found = estimates([anova.crossed(one) for one in rewards], anova.crossed_results)
    true = [0.2, 0.4, 0.4, 0.2, 0.4, 0.4, 0.1]
    assert [one.value for one in found] == pytest.approx(true, abs=0.03)
    assert all(one.low < one.value < one.high for one in found)


def test_the_variances_of_crossed_rewards_are_unbiased_where_rows_do_nothing() -> None:
    rewards = normal(1, 0.4, TASKS, 4, 1, 5) + normal(2, 0.6, TASKS, 4, 6, 5)
    rows, *_ = estimates([anova.crossed(one) for one in rewards], anova.crossed_results)
    assert rows.low < 0 < rows.high


def test_agreement_without_noise_is_the_correlation_of_true_means() -> None:
    true = normal(0, 0.5, TASKS, 4, 1)
    other = 0.6 * true + 0.8 * normal(1, 0.5, TASKS, 4, 1)
    rewards, truth = other + normal(2, 2, TASKS, 4, 6), true + normal(3, 1, TASKS, 4, 12)
    rows = [anova.agreement(*pair) for pair in zip(rewards, truth, strict=True)]
    between, within, one, three, six, raw, corrected = (each.value for each in estimates(rows, anova.agreement_results))
    assert (between, within) == pytest.approx((0.5, 2), rel=0.1)
    assert (one, three, six) == pytest.approx((0.2, 3 / 7, 0.6), abs=0.05)
    assert raw == pytest.approx(0.6 * math.sqrt(0.6 * 6 / 7), abs=0.06)
    assert corrected == pytest.approx(0.6, abs=0.08)


def test_more_futures_pick_better_and_no_information_gains_nothing() -> None:
    true = normal(0, 0.5, TASKS, 4, 1)
    truth, rewards = true + normal(1, 0.5, TASKS, 4, 30), true + normal(2, 2, TASKS, 4, 12)
    few, many = (
        estimates([anova.picks(*pair, k) for pair in zip(rewards, truth, strict=True)], anova.mean_of) for k in (1, 6)
    )
    assert few[0].value < many[0].value
    assert few[1].value > many[1].value
    assert 0 < few[2].value < many[2].value
    noise = normal(3, 2, TASKS, 4, 12)
    best, _, gain = estimates([anova.picks(*pair, 1) for pair in zip(noise, truth, strict=True)], anova.mean_of)
    assert best.value == pytest.approx(0.25, abs=0.03)
    assert gain.low < 0 < gain.high


def test_dealing_strata_does_what_a_simulation_of_it_does() -> None:
    strata, means = 6, np.array([0.0, 1, 2, 0, 1, 2])
    rewards = means[:, None] + normal(0, 1, TASKS, strata, 4)
    ratios = [
        one.value for one in estimates([anova.one_way(one) for one in rewards], anova.dealt_results(strata, (3, 6, 8)))
    ]
    chance = np.random.default_rng(1)
    for k, ratio in zip((3, 6, 8), ratios[2:], strict=True):
        rounds = -(-k // strata)
        dealt = np.concatenate([chance.permuted(np.tile(means, (20_000, 1)), axis=1) for _ in range(rounds)], axis=1)[
            :, :k
        ]
        drawn = chance.choice(means, size=(20_000, k))
        assert ratio == pytest.approx((dealt.mean(1).var() + 1 / k) / (drawn.mean(1).var() + 1 / k), abs=0.03)


def test_a_pairs_mean_varies_by_its_correlation() -> None:
    common = normal(0, 0.3, TASKS, 4, 8)
    pairs = np.stack([common, -common], axis=-1) + normal(1, 0.7, TASKS, 4, 8, 2)
    found = [one.value for one in estimates([anova.paired(one) for one in pairs], anova.paired_results)]
    assert found == pytest.approx([1, -0.3, 0.7], abs=0.03)


def test_nested_verdicts_show_candidates_futures_and_verdicts_also_where_some_are_missing() -> None:
    verdicts = normal(0, 0.2, TASKS, 4, 1, 1) + normal(1, 0.3, TASKS, 4, 6, 1) + normal(2, 0.5, TASKS, 4, 6, 4)
    verdicts[np.random.default_rng(3).random(verdicts.shape) < 0.1] = np.nan
    found = [one.value for one in estimates([anova.nested(one) for one in verdicts], anova.nested_results)]
    assert found[:3] == pytest.approx([0.2, 0.3, 0.5], abs=0.03)
    assert found[-1] == pytest.approx(0.9, abs=0.01)


def test_the_best_number_of_verdicts_is_that_of_two_stage_sampling() -> None:
    optimum, best, saved = anova.best_samples(futures=0.1, samples=0.9, per_future=4, per_sample=1)
    assert (optimum, best) == (6, 6)
    assert saved == pytest.approx(1 - (0.1 + 0.15) * 10 / 5)
    assert anova.best_samples(futures=1, samples=0, per_future=2, per_sample=1)[1:] == (1, 0)


@pytest.mark.parametrize("seed", range(20))
def test_a_mirrored_generator_draws_the_opposite(seed: int) -> None:
    direct, mirrored = Direct(seed), Mirrored(seed)
    for _ in range(5):
        assert direct.random() + mirrored.random() == 1 - 2**-53
        assert direct.choice(range(7)) + mirrored.choice(range(7)) == 6
        assert direct.randrange(1, 9) + mirrored.randrange(1, 9) == 9
    plain: random.Random = Mirrored(seed)
    assert set(plain.sample(range(5), 5)) == set(range(5))
