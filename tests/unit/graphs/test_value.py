"""A value model: its expectations are the prior of rewards, in a rollout's choice and allocation, and in an agent."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from numpy.testing import assert_allclose

from collab_agents import (
    Budget,
    Lookahead,
    MultiturnReward,
    Task,
    Trajectory,
    create_lookahead_agent,
    create_rollout_graph,
)
from collab_agents.errors import ConfigError, RolloutError, RunDirectoryError
from collab_agents.judges import Conversation
from collab_agents.lookahead import Components
from collab_agents.runs import check_tasks
from collab_agents.runs.choices import count_choices
from collab_agents.trajectories import Expected, Message
from collab_agents.users import AgendaUser
from collab_agents.variance import Prior, shrunk_means, true_rewards
from tests.support.participants import Says
from tests.support.runs import collect
from tests.support.tasks import parties, party
from tests.support.values import learned_from

LOOK = Lookahead(candidates=3, futures=2, window=1, max_exchanges=1)


class Knows:
    """A value model that expects of a reply the number at its end, with some variance."""

    def __init__(self, variance: float, *, sign: float = 1.0, learned: Sequence[str] = ()) -> None:
        self.components = Components(between=1e5, within=1e6)
        self.variance, self.sign, self.learned = variance, sign, learned
        self.asked: list[tuple[Sequence[Message], Sequence[Sequence[Message]]]] = []

    async def expect(self, prompt: Sequence[Message], replies: Sequence[Sequence[Message]]) -> list[Expected]:
        self.asked.append((prompt, replies))
        numbers = [float(reply[-1]["content"].split()[-1]) for reply in replies]
        return [Expected(mean=self.sign * number, variance=self.variance) for number in numbers]

    def problem_with(self, task: Task) -> str | None:
        return "the value model learned from it" if task.id in self.learned else None


class Broken(Knows):
    async def expect(self, prompt: Sequence[Message], replies: Sequence[Sequence[Message]]) -> list[Expected]:
        raise RuntimeError("out of memory")


def numbered() -> Says:
    """An assistant whose replies all differ, by the number at the end."""
    return Says(lambda messages, context: f"{'word ' * (context.seed % 7)}quality {context.seed % 1009}")


def by_number(worth: float) -> MultiturnReward:
    async def quality(conversation: Conversation, task: Task) -> float:
        first = next(one for one in conversation.messages if isinstance(one, AIMessage))
        return worth * float(str(first.content).split()[-1])

    return MultiturnReward({"quality": quality})


async def turns(value: Knows, look: Lookahead = LOOK, worth: float = 1.0) -> list[Any]:
    played = await collect(list(parties(4)), assistant=numbered(), reward=by_number(worth), lookahead=look, value=value)
    return [turn for one in played.values() for turn in one.turns]


def number(candidate: Any) -> float:
    return float(candidate.messages[-1]["content"].split()[-1])


async def test_a_sure_expectation_outweighs_futures_and_a_vague_one_does_not() -> None:
    for turn in await turns(Knows(1e-6, sign=-1.0)):
        assert turn.chosen == int(np.argmin([number(one) for one in turn.candidates]))
    for turn in await turns(Knows(1e12, sign=-1.0)):
        assert turn.chosen == int(np.argmax([one.reward for one in turn.candidates]))


async def test_what_was_expected_is_recorded_and_rewards_stay_means_of_futures() -> None:
    value = Knows(0.5)
    for turn in await turns(value):
        for one in turn.candidates:
            assert one.expected == Expected(mean=number(one), variance=0.5)
            assert one.reward == pytest.approx(number(one))
    assert all(prompt[-1]["role"] == "user" and len(replies) == 3 for prompt, replies in value.asked)


async def test_a_trajectory_with_expectations_can_be_read_again() -> None:
    played = await collect(list(parties(1)), assistant=numbered(), reward=by_number(1), lookahead=LOOK, value=Knows(1))
    (one,) = played.values()
    assert Trajectory.model_validate_json(one.model_dump_json()) == one


async def test_a_sure_expectation_saves_further_futures() -> None:
    adaptive = LOOK.model_copy(update={"allocation": "adaptive", "max_futures": 8})

    def number_of_futures(played: list[Any]) -> int:
        return sum(len(one.futures) for turn in played for one in turn.candidates)

    sure = number_of_futures(await turns(Knows(1e-9), adaptive, worth=0.0))
    vague = number_of_futures(await turns(Knows(1e6), adaptive, worth=0.0))
    assert sure == 4 * 3 * 2
    assert vague > sure


async def test_a_candidate_that_failed_is_not_expected_to_be_anything() -> None:
    def fails_once(messages: Sequence[object], context: Any) -> str:
        if context.seed % 3 == 0:
            raise RuntimeError("no luck")
        return f"quality {context.seed % 1009}"

    played = await collect(
        list(parties(8)),
        assistant=Says(fails_once),
        reward=by_number(1),
        lookahead=LOOK.model_copy(update={"candidates": 6, "window": 0}),
        value=Knows(1e-9, sign=-1.0),
    )
    candidates = [one for trajectory in played.values() for turn in trajectory.turns for one in turn.candidates]
    assert {one.expected is None for one in candidates} == {True, False}
    assert all((one.expected is None) == (one.error is not None) for one in candidates)
    for trajectory in played.values():
        (turn,) = trajectory.turns
        there = [one for one in turn.candidates if one.error is None]
        assert number(turn.candidates[turn.chosen]) == min(map(number, there))


async def test_a_value_model_never_judges_a_task_that_it_learned_from() -> None:
    value = Knows(1.0, learned=["party"])
    graph = create_rollout_graph(AgendaUser(), numbered(), by_number(1), LOOK, value=value)
    with pytest.raises(RolloutError, match="task 'party': the value model learned from it"):
        await graph.ainvoke({"task": party(), "messages": []})
    with pytest.raises(ConfigError, match="offline: task 'party': the value model learned from it; play other tasks"):
        check_tasks("offline", [party()], AgendaUser(), by_number(1), value)


async def test_a_session_of_a_person_counts_as_its_task() -> None:
    value = learned_from(["party"])
    session = party("party@noon").model_copy(update={"metadata": {"session": {"task": "party"}}})
    assert value.problem_with(session) == "the value model learned from it"
    assert value.problem_with(party("other")) is None
    assert await value.expect([], []) == []


async def test_if_all_candidates_fail_their_reason_is_given() -> None:
    def fails(messages: Sequence[object], context: Any) -> str:
        raise RuntimeError("bad key")

    graph = create_rollout_graph(AgendaUser(), Says(fails), by_number(1), LOOK, value=Knows(1.0))
    with pytest.raises(RolloutError, match=r"no candidate could be scored: .*bad key"):
        await graph.ainvoke({"task": party(), "messages": []})


async def test_if_the_value_model_fails_the_futures_decide(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="collab_agents"):
        for turn in await turns(Broken(1.0)):
            assert turn.chosen == int(np.argmax([one.reward for one in turn.candidates]))
            assert all(one.expected is None for one in turn.candidates)
    assert "the value model failed, so the futures alone decide: RuntimeError: out of memory" in caplog.text


@pytest.mark.parametrize("allocation", ["uniform", "adaptive"])
async def test_the_choice_can_be_told_again_from_the_record(allocation: str) -> None:
    look = LOOK.model_copy(update={"allocation": allocation, "max_exchanges": 2})
    played = await collect(
        list(parties(4)), assistant=numbered(), reward=by_number(1), lookahead=look, value=Knows(1e-6, sign=-1.0)
    )
    assert count_choices(played.values()) == {"turns": 8, "changed": 0}


async def test_a_run_is_resumed_with_the_same_value_model_only(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "assistant": numbered(),
        "reward": by_number(1),
        "lookahead": LOOK,
        "out": tmp_path / "x",
    }
    await collect(list(parties(2)), **options, value=Knows(1.0))
    with pytest.raises(RunDirectoryError, match="value"):
        await collect(list(parties(3)), **options, resume=True)
    assert set(await collect(list(parties(3)), **options, resume=True, value=Knows(1.0))) == {"party-2"}


async def test_expectations_of_a_turn_are_gone_after_it() -> None:
    graph = create_rollout_graph(AgendaUser(), numbered(), by_number(1), LOOK, value=Knows(1.0), continues=True)
    end = await graph.ainvoke({"task": party(), "messages": []})
    assert end.get("expected") is None


async def answered(value: Knows, **look: Any) -> dict[str, Any]:
    lookahead = Lookahead(candidates=3, futures=2, window=0, **look)
    agent = create_lookahead_agent(numbered(), AgendaUser(), by_number(1), lookahead, value=value, agree=1.0)
    return await agent.ainvoke({"messages": [HumanMessage("Write me an invitation.")]})


async def test_an_agent_plays_no_future_if_the_value_model_is_sure() -> None:
    end = await answered(Knows(1e-9, sign=-1.0))
    record = end["lookahead"]
    assert record["why"] == "the value model is sure enough"
    assert [len(one["futures"]) for one in record["candidates"]] == [0, 0, 0]
    numbers = [one["expected"]["mean"] for one in record["candidates"]]
    assert record["chosen"] == int(np.argmax(numbers))
    assert float(end["messages"][-1].content.split()[-1]) == -max(numbers)


async def test_an_agent_plays_futures_if_the_value_model_is_not_sure() -> None:
    end = await answered(Knows(1e12, sign=-1.0))
    record = end["lookahead"]
    assert record["why"] == "the highest expected reward"
    assert [len(one["futures"]) for one in record["candidates"]] == [2, 2, 2]
    assert record["chosen"] == int(np.argmax([one["reward"] for one in record["candidates"]]))


async def test_indifference_makes_an_agent_sure() -> None:
    end = await answered(Knows(1e4), indifference=1e6)
    assert end["lookahead"]["why"] == "the value model is sure enough"


async def test_if_time_runs_out_an_agent_gives_what_the_value_model_expects_most_of() -> None:
    async def hangs(conversation: Conversation, task: Task) -> float:
        await asyncio.sleep(3600)
        return 0.0

    agent = create_lookahead_agent(
        numbered(),
        AgendaUser(),
        MultiturnReward({"hangs": hangs}),
        Lookahead(candidates=3, futures=2, window=0),
        value=Knows(1e12, sign=-1.0),
        agree=1.0,
        budget=Budget(seconds=1),
    )
    end = await agent.ainvoke({"messages": [HumanMessage("Write me an invitation.")]})
    record = end["lookahead"]
    assert record["why"] == "the best of the value model: the time budget was spent"
    assert record["chosen"] == int(np.argmax([one["expected"]["mean"] for one in record["candidates"]]))


async def test_an_agent_plays_futures_if_the_value_model_fails(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="collab_agents"):
        end = await answered(Broken(1.0))
    assert end["lookahead"]["why"] == "the highest reward"
    assert "the value model failed, so futures are played: RuntimeError: out of memory" in caplog.text


def exact(
    means: Sequence[float], counts: Sequence[int], within: float, prior: Prior, vague: float = 1e6
) -> tuple[Any, Any]:
    """The mean and covariance of the true rewards by conditioning their joint normal distribution on the means."""
    spread = np.diag(prior.variances) + vague
    seen = np.array(counts) > 0
    noise = np.diag(within / np.array(counts)[seen])
    gain = spread[:, seen] @ np.linalg.inv(spread[np.ix_(seen, seen)] + noise)
    expected = np.array(prior.means)
    left = np.array(means)[seen] - expected[seen]
    return expected + gain @ left, spread - gain @ spread[seen]


@pytest.mark.parametrize("counts", [[3, 3, 3], [1, 4, 16], [2, 0, 1]])
def test_expectations_and_futures_are_combined_as_normal_distributions(counts: list[int]) -> None:
    prior = Prior([0.3, -0.2, 0.1], [0.5, 0.2, 1.0])
    means, components = [0.9, 0.8, 0.2], Components(between=9.0, within=0.7)
    mean, covariance = exact(means, counts, components.within, prior)
    assert_allclose(shrunk_means(means, counts, components, prior), mean, atol=1e-4)
    drawn = true_rewards(means, counts, components, prior)
    apart, variances = drawn - drawn[:, :1], np.diag(covariance)
    assert_allclose(apart.mean(axis=0), mean - mean[0], atol=0.05)
    assert_allclose(apart.var(axis=0)[1:], (variances + variances[0] - 2 * covariance[0])[1:], rtol=0.1)


def test_without_futures_the_prior_is_all_there_is() -> None:
    prior, components = Prior([0.3, -0.2], [0.5, 0.2]), Components(between=1.0, within=1.0)
    assert shrunk_means([0.0, 0.0], [0, 0], components, prior) == prior.means
    drawn = true_rewards([0.0, 0.0], [0, 0], components, prior)
    assert_allclose((drawn[:, 1] - drawn[:, 0]).var(), 0.7, rtol=0.1)


def test_a_value_has_its_own_components() -> None:
    with pytest.raises(ValueError, match="components cannot be combined with a value, which has its own"):
        Lookahead(allocation="adaptive", value="runs/value", components=Components(between=1, within=1))
    assert Lookahead(futures=1, allocation="adaptive", value="runs/value").most_futures == 16
