"""Adaptive allocation: futures go to turns that are not decided, and to the candidates that decide them."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import AIMessage

from collab_agents import AgendaUser, Lookahead, MultiturnReward, Progress, Task, Trajectory, create_rollout_graph
from collab_agents.allocation import Rewards, best_candidate, further_futures
from collab_agents.errors import ConfigError
from collab_agents.judges import Conversation
from collab_agents.lookahead import Components, check_lookahead
from collab_agents.participants import AssistantContext
from collab_agents.rewards import mean, unbiased
from collab_agents.trajectories import Candidate, Future, Turn
from collab_agents.variance import likely_components
from tests.support.participants import Says
from tests.support.runs import collect
from tests.support.tasks import parties, party

ADAPTIVE = Lookahead(candidates=3, futures=2, window=1, max_exchanges=2, allocation="adaptive", max_futures=8)
EVEN = Components(between=1.0, within=1.0)


def judge_with_noise(noise: float) -> MultiturnReward:
    """A reward that is the number which the assistant's first reply of a conversation names, and noise."""

    async def quality(conversation: Conversation, task: Task) -> float:
        replies = [one for one in conversation.messages if isinstance(one, AIMessage)]
        return float(str(replies[0].content).split()[-1]) + random.Random(conversation.seed).gauss(0, noise)

    return MultiturnReward({"quality": quality})


def names_a_number(messages: Sequence[object], context: AssistantContext) -> str:
    return f"reply {len(messages)} of quality {context.seed % 4}"


async def played(noise: float, lookahead: Lookahead = ADAPTIVE, **options: object) -> dict[str, Trajectory]:
    return await collect(
        list(parties(6)),
        **{"assistant": Says(names_a_number), "reward": judge_with_noise(noise), "lookahead": lookahead} | options,
    )


def first_turns(trajectories: dict[str, Trajectory]) -> list[Turn]:
    return [one.turns[0] for _, one in sorted(trajectories.items())]


async def test_an_open_turn_gets_further_futures_and_a_decided_one_does_not() -> None:
    clear, noisy = first_turns(await played(0.01)), first_turns(await played(10.0))
    assert {len(one.futures) for turn in clear for one in turn.candidates} == {2}
    numbers = [[len(one.futures) for one in turn.candidates] for turn in noisy]
    assert all(2 <= number <= 8 for turn in numbers for number in turn)
    assert max(map(max, numbers)) == 8
    assert any(len(set(turn)) > 1 for turn in numbers), "candidates that are behind get fewer"
    for turn in noisy:
        for one in turn.candidates:
            assert one.scored == len(one.futures)
            assert one.reward == pytest.approx(sum(each.reward or 0 for each in one.futures) / one.scored)
            assert one.scores["quality"] == pytest.approx(one.reward)


async def test_the_first_futures_are_those_of_uniform_allocation() -> None:
    uniform = ADAPTIVE.model_copy(update={"allocation": "uniform", "max_futures": None, "futures": 8})
    few, many = first_turns(await played(3.0)), first_turns(await played(3.0, uniform))
    for turn, whole in zip(few, many, strict=True):
        for one, other in zip(turn.candidates, whole.candidates, strict=True):
            assert one.messages == other.messages
            assert one.futures == other.futures[: len(one.futures)]


async def test_variances_of_an_earlier_run_decide_with_one_future() -> None:
    known = ADAPTIVE.model_copy(update={"futures": 1, "components": Components(between=1.0, within=9.0)})
    found = first_turns(await played(3.0, known))
    assert {turn.first_futures for turn in found} == {1}
    assert max(len(one.futures) for turn in found for one in turn.candidates) == 8
    certain = known.model_copy(update={"components": Components(between=1.0, within=0.0)})
    assert {len(one.futures) for turn in first_turns(await played(3.0, certain)) for one in turn.candidates} == {1}


async def test_candidates_and_futures_that_fail_are_left_out() -> None:
    def fails_at_times(messages: Sequence[object], context: AssistantContext) -> str:
        if context.seed % 3 == 0:
            raise RuntimeError("no luck")
        return names_a_number(messages, context)

    turns = first_turns(await played(3.0, assistant=Says(fails_at_times)))
    candidates = [one for turn in turns for one in turn.candidates]
    assert any(one.error and not one.futures for one in candidates), "a reply failed"
    assert any(0 < one.scored < len(one.futures) for one in candidates), "a future failed"
    assert any(len(one.futures) > 2 for one in candidates), "others got further futures"
    for one in candidates:
        assert one.reward == mean(future.reward for future in one.futures)


async def test_the_same_seed_gives_the_same_futures_at_any_concurrency() -> None:
    one_by_one = await played(3.0, max_concurrency=1)
    assert await played(3.0, max_concurrency=64) == one_by_one


async def test_a_run_that_is_resumed_makes_the_same_decisions(tmp_path: Path) -> None:
    whole = await played(3.0)
    turned = asyncio.Event()
    progress = Progress(on_change=lambda now: turned.set() if now.turns == 5 else None)
    playing = asyncio.create_task(played(3.0, out=tmp_path, progress=progress, max_concurrency=2))
    await turned.wait()
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    resumed = await played(3.0, out=tmp_path, resume=True)
    assert 0 < len(resumed) < len(whole)
    assert all(one == whole[task] for task, one in resumed.items())


async def test_the_user_of_a_rollout_goes_on_in_the_chosen_candidates_first_future() -> None:
    graph = create_rollout_graph(AgendaUser(), Says(names_a_number), judge_with_noise(3.0), ADAPTIVE)
    state = await graph.ainvoke({"task": party(), "messages": [], "seed": 5})
    turn = Turn.model_validate(state["turns"][0])
    chosen = turn.candidates[turn.chosen]
    said = [one.content for one in state["messages"]]
    assert said[len(turn.prompt) + 1] == chosen.futures[0].messages[0]["content"]
    assert turn.chosen == best_candidate(
        [[future.reward for future in one.futures] for one in turn.candidates],
        likely_components([[[future.reward or 0 for future in one.futures[:2]] for one in turn.candidates]]),
    )


@pytest.mark.parametrize(
    ("rewards", "components", "gets"),
    [
        ([[0, 0], [9, 9]], EVEN, [False, False]),
        ([[1, 1], [1.1, 1.1]], EVEN, [True, True]),
        ([[1, 1], [1.1, 1.1]], None, [False, False]),
        ([[1, 1], [1.1, 1.1]], Components(between=1.0, within=0.0), [False, False]),
        ([[None, None], [1.1, 1.1]], EVEN, [False, False]),
        ([[1, 1] * 4, [1.1, 1.1] * 4], EVEN, [False, False]),
        ([[1, 1] * 4, [1.1, 1.1]], EVEN, [False, True]),
    ],
)
def test_futures_go_where_the_choice_is_open(
    rewards: Rewards, components: Components | None, gets: Sequence[bool]
) -> None:
    assert [more > 0 for more in further_futures(rewards, components, ADAPTIVE)] == gets


def test_candidates_that_hardly_differ_are_decided_with_indifference() -> None:
    close = [[1.0] * 4, [1.002] * 4]
    components = Components(between=1e-4, within=1e-4)
    assert sum(further_futures(close, components, ADAPTIVE)) > 0
    assert sum(further_futures(close, components, ADAPTIVE.model_copy(update={"indifference": 0.02}))) == 0


def test_futures_that_gain_too_little_are_not_played() -> None:
    open_turn = [[1.0, 1.2], [1.1, 1.0]]
    demanding = ADAPTIVE.model_copy(update={"minimum_gain": 0.5})
    assert sum(further_futures(open_turn, EVEN, ADAPTIVE)) > 0
    assert sum(further_futures(open_turn, EVEN, demanding)) == 0


def test_a_challenger_gets_more_than_a_candidate_that_is_far_behind() -> None:
    more = further_futures([[1.0] * 6, [0.9] * 6, [-2.0] * 6], EVEN, ADAPTIVE)
    assert more[0] >= more[1] > more[2]


def test_a_mean_of_few_futures_is_shrunk_more_when_the_best_is_chosen() -> None:
    assert best_candidate([[1.2], [1.0] * 16, [0.0] * 16], Components(between=0.1, within=1.0)) == 1
    assert best_candidate([[1.2], [1.0] * 16, [0.0] * 16], None) == 0
    assert best_candidate([[None], []], None) is None


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        ({"max_futures": 8}, "max_futures needs allocation: adaptive"),
        ({"minimum_gain": 0.1}, "minimum_gain needs allocation: adaptive"),
        ({"components": {"between": 1, "within": 1}}, "components needs allocation: adaptive"),
        ({"allocation": "adaptive", "components": {"between": -1, "within": 1}}, "components.between"),
        ({"allocation": "adaptive", "futures": 1}, "allocation: adaptive needs 2 futures or more"),
        ({"allocation": "adaptive", "futures": 4, "max_futures": 3}, "max_futures must be at least futures, 4, got 3"),
        ({"allocation": "adaptive", "confidence": 1.0}, "confidence"),
    ],
)
def test_settings_that_make_no_sense_are_refused(chosen: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        check_lookahead(**chosen)


def test_the_first_futures_are_unbiased_and_all_of_them_are_not() -> None:
    """The rewards that training takes, over many turns whose true rewards are known."""
    random = np.random.default_rng(0)
    components, errors, all_errors = Components(between=0.3, within=1.0), [], []
    for _ in range(1500):
        true = random.normal(scale=components.between**0.5, size=3)
        coming = (true[:, None] + random.normal(size=(3, 8))).tolist()
        numbers = [2, 2, 2]
        while any(
            more := further_futures([each[:n] for each, n in zip(coming, numbers, strict=True)], components, ADAPTIVE)
        ):
            numbers = [n + extra for n, extra in zip(numbers, more, strict=True)]
        candidates = [
            Candidate(reward=mean(each[:n]), futures=[Future(reward=one) for one in each[:n]])
            for each, n in zip(coming, numbers, strict=True)
        ]
        turn = Turn(prompt=[], chosen=0, candidates=candidates, first_futures=2)
        all_errors += [(one.reward or 0) - quality for one, quality in zip(candidates, true, strict=True)]
        errors += [(one.reward or 0) - quality for one, quality in zip(unbiased(turn).candidates, true, strict=True)]
    assert abs(np.mean(errors)) < 3 * np.std(errors) / len(errors) ** 0.5
    assert np.mean(all_errors) < -3 * np.std(all_errors) / len(all_errors) ** 0.5
