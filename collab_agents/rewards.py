"""The reward of a finished conversation, its mean over futures (the multiturn-aware reward), and the best reward."""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from collab_agents._internal.containment import PASS_THROUGH, contained
from collab_agents._internal.reasons import reason_of
from collab_agents._internal.tracing import traced
from collab_agents.allocation import best_candidate
from collab_agents.errors import ConfigError
from collab_agents.judges import AnyJudge, Conversation, Judge, Score, as_judge, problem_with, user_faults
from collab_agents.judges.base import CheckedJudge
from collab_agents.tasks import Task
from collab_agents.trajectories import Candidate, Future, Turn
from collab_agents.usage import spent_by
from collab_agents.variance import likely_components


@dataclass(frozen=True)
class Reward:
    """R* of one finished conversation."""

    value: float | None
    """The weighted sum of the scores, or None if a judge with a weight gave no score."""
    scores: dict[str, Score]
    """By judge."""

    @property
    def reason(self) -> str:
        """Which judges gave no score, and why; empty if all did."""
        return "; ".join(f"{name}: {score.reason}" for name, score in self.scores.items() if score.value is None)

    @property
    def faults(self) -> list[str]:
        """The kinds of fault that judges found in the simulated user."""
        return list(dict.fromkeys(kind for score in self.scores.values() for kind in score.faults))


class MultiturnReward:
    """The judges and their weights (CollabLLM, arXiv 2502.00640, section 3).

    R*(t | g) is the weighted sum of the judges' scores of a conversation t with goal g. The multiturn-aware reward of a
    candidate is the mean of R* over its futures.

    Args:
        judges: Judges by the names under which they are recorded. Plain functions that return numbers are judges too,
            with 300 s for a conversation; `as_judge` sets another limit.
        weights: Weights by the same names; 1 by default. A judge of weight 0 is recorded and does not count.

    Raises:
        ConfigError: If there is no judge, or a weight is not finite or has no judge.

    Example:
        reward = MultiturnReward({"facts": fact_coverage(), "cost": token_cost()}, weights={"cost": 0.5})
    """

    def __init__(self, judges: Mapping[str, Judge | AnyJudge], weights: Mapping[str, float] | None = None) -> None:
        if not judges:
            raise ConfigError("a reward needs at least one judge")
        unknown = set(weights or {}) - set(judges)
        if unknown:
            raise ConfigError(f"weight for {min(unknown)!r}, which is not one of the judges {', '.join(judges)}")
        self.judges = {name: as_judge(judge) for name, judge in judges.items()}
        self.weights = {name: (weights or {}).get(name, 1.0) for name in judges}
        for name, weight in self.weights.items():
            if not math.isfinite(weight):
                raise ConfigError(f"the weight of {name!r} must be finite, got {weight}")

    def problem_with(self, task: Task) -> str | None:
        """Return why a judge cannot judge the task, as far as the task alone shows, or None."""
        for name, judge in self.judges.items():
            if problem := problem_with(judge, task):
                return f"{problem} (judge {name})"
        return None

    def reviewing(self) -> "MultiturnReward":
        """Return a reward whose judges also look for faults of the simulated user.

        It is this one if it has `user_faults`, by whatever name, or a judge of that name. Otherwise, `user_faults` by
        rule is added with weight 0.
        """
        reviewing = [judge for judge in self.judges.values() if isinstance(judge, CheckedJudge) and judge.reviews_user]
        if reviewing or "user_faults" in self.judges:
            return self
        return MultiturnReward({**self.judges, "user_faults": user_faults()}, {**self.weights, "user_faults": 0.0})

    async def score(self, conversation: Conversation, task: Task, known: Mapping[str, Score] | None = None) -> Reward:
        """Score a conversation with all judges at once.

        A judge that raises gives no score, and the exception is the reason.

        Args:
            conversation: The conversation.
            task: The task.
            known: Scores that some of the judges gave it before, by judge. These judges are not asked.
        """
        asked = {name: judge for name, judge in self.judges.items() if name not in (known or {})}
        scores = await asyncio.gather(*(_score(name, judge, conversation, task) for name, judge in asked.items()))
        given = {**(known or {}), **dict(zip(asked, scores, strict=True))}
        named = {name: given[name] for name in self.judges}
        parts = [(self.weights[name], score.value) for name, score in named.items() if self.weights[name]]
        if any(value is None for _, value in parts):
            return Reward(None, named)
        return Reward(sum(weight * value for weight, value in parts if value is not None), named)


async def _score(name: str, judge: Judge, conversation: Conversation, task: Task) -> Score:
    try:
        with traced(name, judge=name), spent_by(f"judge {name}"), contained():
            score = await judge(conversation, task)
    except PASS_THROUGH:
        raise
    except BaseException as error:
        return Score(None, reason_of(error))
    if score.value is not None and not math.isfinite(score.value):
        return Score(None, f"the judge returned {score.value}")
    return score


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None, or None if there are none."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def mean_scores(scores: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Return each judge's mean score over the futures that it scored."""
    names = dict.fromkeys(name for one in scores for name in one)
    return {name: mean(one.get(name) for one in scores) for name in names}


def unbiased(turn: Turn) -> Turn:
    """Return the turn with those futures alone that were played whatever the others gave.

    With adaptive allocation, whether a candidate gets further futures depends on its first ones, which biases the mean
    of all of them (Nie, Tian, Taylor and Zou, Why Adaptively Collected Data Have Negative Bias, 2018). Other turns are
    returned as they are.
    """
    if turn.first_futures is None:
        return turn
    return turn.model_copy(
        update={"candidates": [_with_futures(one, one.futures[: turn.first_futures]) for one in turn.candidates]}
    )


def _with_futures(candidate: Candidate, futures: Sequence[Future]) -> Candidate:
    counted = [one for one in futures if one.counts]
    means = {"reward": mean(one.reward for one in counted), "scores": mean_scores([one.scores for one in counted])}
    return Candidate.model_validate(candidate.model_dump() | {"futures": list(futures)} | means)


def best_of(rewards: Sequence[float | None]) -> int | None:
    """Return the index of the highest reward (the first if several are equal), or None if there is no reward."""
    scored = [(index, reward) for index, reward in enumerate(rewards) if reward is not None]
    return max(scored, key=lambda one: one[1])[0] if scored else None


def best_in(turns: Sequence[Turn]) -> int | None:
    """Return the index of the best candidate of the last turn, or None if none has a reward.

    It is the one with the highest reward or, with adaptive allocation or a value model, with the highest expected
    reward, given the variances with which the choice was made or else those that the first futures of the turns show.

    Args:
        turns: A conversation's turns up to this one.
    """
    last = turns[-1]
    expected = [one.expected for one in last.candidates]
    if last.first_futures is None and not any(expected):
        return best_of([one.reward for one in last.candidates])
    first = [[one.rewards(turn.first_futures) for one in turn.candidates] for turn in turns]
    components = last.components or likely_components(first)
    return best_candidate([one.rewards() for one in last.candidates], components, expected)
