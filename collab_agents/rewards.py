"""The reward of a finished conversation, its mean over futures (the multiturn-aware reward), and the best reward."""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from collab_agents._internal.containment import PASS_THROUGH, contained
from collab_agents._internal.reasons import reason_of
from collab_agents._internal.tracing import traced
from collab_agents.errors import ConfigError
from collab_agents.judges import AnyJudge, Conversation, Judge, Score, as_judge, problem_with
from collab_agents.tasks import Task


@dataclass(frozen=True)
class Reward:
    """R* of one finished conversation: the weighted sum, each judge's score, and why there is none if there is none."""

    value: float | None
    scores: dict[str, Score]

    @property
    def reason(self) -> str:
        """Which judges gave no score, and why; empty if all did."""
        return "; ".join(f"{name}: {score.reason}" for name, score in self.scores.items() if score.value is None)


class MultiturnReward:
    """Judges, their weights, and how a candidate's futures add up (CollabLLM, arXiv 2502.00640, section 3).

    R*(t | g) is the weighted sum of the judges' scores of a conversation t with goal g; the multiturn-aware reward
    of a candidate is the mean of R* over its futures.

    judges: by the name that they have in the record; plain functions that return numbers are judges too, and have
        300 s for a conversation (`as_judge` gives them another limit).
    weights: by the same names; 1 where none is given. A judge with weight 0 is recorded and does not count.

    Raises ConfigError for a weight without a judge or one that is not finite, or no judge at all.
    """

    def __init__(self, judges: Mapping[str, Judge | AnyJudge], weights: Mapping[str, float] | None = None) -> None:
        if not judges:
            raise ConfigError("a reward needs at least one judge")
        unknown = set(weights or {}) - set(judges)
        if unknown:
            raise ConfigError(f"weight for {min(unknown)!r}, which is none of the judges {', '.join(judges)}")
        self.judges = {name: as_judge(judge) for name, judge in judges.items()}
        self.weights = {name: (weights or {}).get(name, 1.0) for name in judges}
        for name, weight in self.weights.items():
            if not math.isfinite(weight):
                raise ConfigError(f"the weight of {name!r} is {weight}: a finite number is needed")

    def problem_with(self, task: Task) -> str | None:
        """Why a judge cannot judge the task, as far as that shows before anything is played, or None."""
        for name, judge in self.judges.items():
            if problem := problem_with(judge, task):
                return f"{problem} (judge {name})"
        return None

    async def score(self, conversation: Conversation, task: Task) -> Reward:
        """Score a conversation with all judges at once.

        A judge that raises gives no score, with the reason. The value is None if a judge with a weight gave no score.
        """
        scores = await asyncio.gather(*(_score(name, judge, conversation, task) for name, judge in self.judges.items()))
        named = dict(zip(self.judges, scores, strict=True))
        parts = [(self.weights[name], score.value) for name, score in named.items() if self.weights[name]]
        if any(value is None for _, value in parts):
            return Reward(None, named)
        return Reward(sum(weight * value for weight, value in parts if value is not None), named)


async def _score(name: str, judge: Judge, conversation: Conversation, task: Task) -> Score:
    try:
        with traced(name, judge=name), contained():
            score = await judge(conversation, task)
    except PASS_THROUGH:
        raise
    except BaseException as error:
        return Score(None, reason_of(error))
    if score.value is not None and not math.isfinite(score.value):
        return Score(None, f"the judge returned {score.value}")
    return score


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are there; None if none is."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def mean_scores(scores: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each judge's scores, over the futures that it scored."""
    names = dict.fromkeys(name for one in scores for name in one)
    return {name: mean(one.get(name) for one in scores) for name in names}


def best_of(rewards: Sequence[float | None]) -> int | None:
    """Return the index of the highest reward (the first if several are equal), or None if there is no reward."""
    scored = [(index, reward) for index, reward in enumerate(rewards) if reward is not None]
    return max(scored, key=lambda one: one[1])[0] if scored else None
