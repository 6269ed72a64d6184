"""How reliable rewards are, on trees whose variances are known."""

import json
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab_agents import Reliability, reliability
from collab_agents.lookahead import Components
from collab_agents.trajectories import Candidate, Trajectory
from collab_agents.variance import (
    ReliabilityTally,
    ScoreReliability,
    best_shares,
    chosen_probabilities,
    true_rewards,
)
from tests.support.noisy import Rewards, played, synthetic, turn_of


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    between=st.floats(0.01, 1),
    within=st.floats(0.05, 2),
    candidates=st.integers(2, 5),
    futures=st.integers(2, 5),
)
def test_the_interval_holds_the_true_reliability(between: float, within: float, candidates: int, futures: int) -> None:
    true = between / (between + within / futures)
    held = 0
    for seed in range(12):
        made, _ = synthetic(40, between, within, candidates=candidates, futures=futures, seed=seed)
        found = reliability(made).reward
        assert found.low is not None
        assert found.high is not None
        held += found.low <= true <= found.high
    assert held >= 9, "of 12 intervals of 95%"


def test_components_are_those_of_the_tree() -> None:
    made, _ = synthetic(1000, between=0.2, within=0.5)
    found = reliability(made)
    assert found.reward.components is not None
    assert found.reward.components.between == pytest.approx(0.2, rel=0.1)
    assert found.reward.components.within == pytest.approx(0.5, rel=0.1)
    assert found.judges["facts"] == found.reward
    assert found.judges["cost"].value == pytest.approx(found.reward.value)
    assert (found.turns, found.futures) == (2000, 3)


def test_unbalanced_trees_give_the_same_components() -> None:
    made, _ = synthetic(1000, between=0.2, within=0.5, futures=5)
    random = np.random.default_rng(1)
    for one in made:
        for turn in one.turns:
            turn.candidates = [
                Candidate.model_validate(each.model_dump() | {"futures": each.futures[: random.integers(1, 6)]})
                for each in turn.candidates
            ]
    found = reliability(made).reward.components
    assert found is not None
    assert found.between == pytest.approx(0.2, rel=0.1)
    assert found.within == pytest.approx(0.5, rel=0.1)


def test_the_probability_that_the_chosen_one_is_the_best_is_right() -> None:
    made, true = synthetic(1500, between=0.3, within=0.5)
    found = reliability(made)
    assert found.chosen_is_best is not None
    turns = [turn for one in made for turn in one.turns]
    right = [turn.chosen == int(np.argmax(best)) for turn, best in zip(turns, true, strict=True)]
    assert found.chosen_is_best == pytest.approx(sum(right) / len(right), abs=0.03)
    each = chosen_probabilities(turns, found.reward.components)
    sure = [is_right for probability, is_right in zip(each, right, strict=True) if probability and probability > 0.9]
    unsure = [is_right for probability, is_right in zip(each, right, strict=True) if probability and probability < 0.5]
    assert sum(sure) / len(sure) > 0.88
    assert sum(unsure) / len(unsure) < 0.55


def test_a_mean_of_few_futures_is_believed_less() -> None:
    components = Components(between=0.1, within=0.4)
    drawn = true_rewards([1.0, 0.9, 0.0], [1, 16, 16], components)
    few, many, worst = best_shares(drawn)
    assert many > few > worst
    assert few + many + worst == pytest.approx(1)


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        ([], "it takes turns with two candidates"),
        ([[[0.3, 0.4]]], "it takes turns with two candidates"),
        ([[[0.3], [0.4]]], "it takes turns with two candidates"),
        ([[[0.3, None], [0.4, None]]], "it takes turns with two candidates"),
        ([[[None, None], [0.4, 0.5]]], "it takes turns with two candidates"),
        ([[[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]]], "the rewards of a turn are all equal"),
    ],
)
def test_what_cannot_be_known_is_unknown(turns: Sequence[Rewards], why: str) -> None:
    one = played(turns)
    found = reliability([one])
    assert (found.reward.components, found.reward.value, found.reward.low, found.chosen_is_best) == (None,) * 4
    assert set(chosen_probabilities(one.turns, found.reward.components)) <= {None}
    assert found.advice.startswith(f"How reliably rewards rank candidates is unknown: {why}")


def test_one_task_gives_an_estimate_without_an_interval() -> None:
    found = reliability([played([[[0.1, 0.2], [0.8, 0.9]]])]).reward
    assert found.value == pytest.approx(1 - 0.005 / 0.49, abs=1e-3)
    assert (found.low, found.high) == (None, None)


def test_candidates_that_differ_by_chance_have_no_reliability() -> None:
    one = played([[[0.0, 1.0], [1.0, 0.0]]])
    found = reliability([one])
    assert found.reward.value == 0
    assert found.chosen_is_best == 0.5
    assert chosen_probabilities(one.turns, found.reward.components) == [0.5]
    assert found.advice == (
        "2 futures rank candidates with reliability 0.00: candidates differ by no more than chance would make them."
    )


def tally_of(trajectories: Sequence[Trajectory]) -> ReliabilityTally:
    tally = ReliabilityTally()
    for one in trajectories:
        tally.add(one.task.id, one.turns, calls=20 * len(one.turns))
    return tally


def assert_same(one: Reliability, other: Reliability) -> None:
    """Equal but for the rounding of sums in another order."""
    for left, right in [(one.reward, other.reward), *((one.judges[name], other.judges[name]) for name in one.judges)]:
        assert left.components is not None
        assert right.components is not None
        assert left.components.model_dump() == pytest.approx(right.components.model_dump())
        assert (left.value, left.low, left.high) == pytest.approx((right.value, right.low, right.high))
    assert one.chosen_is_best == pytest.approx(other.chosen_is_best)
    assert one.share_of_futures == other.share_of_futures
    assert (one.turns, one.futures) == (other.turns, other.futures)


def test_neither_order_nor_division_nor_a_stop_in_between_changes_what_a_tally_says() -> None:
    made, _ = synthetic(600, between=0.2, within=0.5)
    whole = tally_of(made).result()
    shuffled = random.Random(0).sample(made, len(made))
    assert_same(tally_of(shuffled).result(), whole)

    parts = [tally_of(shuffled[:150]), tally_of(shuffled[150:151]), tally_of([]), tally_of(shuffled[151:])]
    merged = ReliabilityTally()
    for part in parts:
        merged.merge(part)
    assert_same(merged.result(), whole)

    stopped = ReliabilityTally.load(json.loads(json.dumps(tally_of(made[:100]).dump())))
    for one in made[100:]:
        stopped.add(one.task.id, one.turns, calls=20 * len(one.turns))
    assert_same(stopped.result(), whole)


def test_a_tally_survives_the_disk_exactly() -> None:
    made, _ = synthetic(300, between=0.2, within=0.5)
    tally = tally_of(made)
    text = json.dumps(tally.dump())
    read = ReliabilityTally.load(json.loads(text))
    assert json.dumps(read.dump()) == text
    assert read.result() == tally.result()
    empty = ReliabilityTally.load(json.loads(json.dumps(ReliabilityTally().dump())))
    assert empty.result() == reliability([])
    with pytest.raises(ValueError, match="not the dump of a tally"):
        ReliabilityTally.load({"sums": {}})


def test_trajectories_of_one_task_are_resampled_together() -> None:
    made, _ = synthetic(40, between=0.2, within=0.5)
    halves = [one.model_copy(update={"turns": [turn]}) for one in made for turn in one.turns]
    assert_same(tally_of(halves).result(), tally_of(made).result())
    one_task = [one.model_copy(update={"task": made[0].task}) for one in made]
    assert tally_of(one_task).result().reward.low is None


def test_what_a_tally_keeps_does_not_grow_with_the_trajectories() -> None:
    one = played([[[0.1, 0.2], [0.8, 0.9]]] * 10)
    tally = ReliabilityTally()

    def kept_after(numbers: range) -> int:
        for number in numbers:
            tally.add(f"task-{number}", one.turns, calls=60)
        return len(json.dumps(tally.dump()))

    few = kept_after(range(1_200))
    assert kept_after(range(1_200, 4_000)) < 1.01 * few
    found = tally.result()
    assert found.turns == 40_000
    assert found.chosen_is_best == pytest.approx(chosen_probabilities(one.turns, found.reward.components)[0])


def known(components: Components, *, futures: float, share_of_futures: float | None = None) -> Reliability:
    value = components.reliability(futures)
    return Reliability(
        turns=10,
        futures=futures,
        reward=ScoreReliability(components=components, value=value, low=0.1, high=0.42),
        judges={},
        chosen_is_best=0.5,
        share_of_futures=share_of_futures,
    )


def test_advice_says_what_more_futures_would_give_and_cost() -> None:
    found = known(Components(between=0.0013, within=0.0113), futures=3, share_of_futures=0.8)
    assert found.advice == (
        "3 futures rank candidates with reliability 0.26 (0.10 to 0.42); 12 would give 0.58 at 3.4 times the calls."
    )


def test_advice_proposes_fewer_futures_where_they_are_enough() -> None:
    found = known(Components(between=1.0, within=0.5), futures=8)
    assert found.advice == "8 futures rank candidates with reliability 0.94 (0.10 to 0.42); 2 would give 0.80."
    assert known(Components(between=1.0, within=0.1), futures=1).advice.endswith("0.91 (0.10 to 0.42).")


def test_calls_of_futures_are_told_from_those_of_candidates() -> None:
    one = played([[[0.1, 0.2], [0.8, 0.9]]])
    one.usage.calls = 10
    assert reliability([one]).share_of_futures == pytest.approx(0.8)


def test_a_candidate_says_how_many_futures_were_scored_and_the_error_of_their_mean() -> None:
    one, other = turn_of([[0.1, None, 0.3], [0.5, None, None]]).candidates
    assert one.scored == 2
    assert one.standard_error == pytest.approx(0.1)
    assert (other.scored, other.standard_error) == (1, None)


@pytest.mark.parametrize("between", [0.0, 0.0042, 0.3, 7.1])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_without_noise_the_best_is_certain_and_equal_ones_share(between: float, count: int) -> None:
    drawn = true_rewards([0.1, 0.3, 0.3], [count] * 3, Components(between=between, within=0.0))
    assert np.isfinite(drawn).all()
    assert best_shares(drawn) == pytest.approx([0, 0.5, 0.5] if between else [1 / 3] * 3)
