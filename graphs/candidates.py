"""Weighing the candidates of a turn: which are sampled how, what is recorded of each, and which is the best.

Knows nothing of when they are played: all at once in a rollout, on a budget in an agent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage

from collab_agents._internal.seeds import derive_seed
from collab_agents.lookahead import Lookahead
from collab_agents.messages import to_dicts
from collab_agents.trajectories import Candidate


@dataclass(frozen=True)
class Sample:
    """How one candidate is sampled.

    proactive: whether with the assistant's proactive prompt. seed: of the reply and its futures.
    """

    index: int
    proactive: bool
    seed: int


def plan_candidates(lookahead: Lookahead, seed: int, *, first: int = 0) -> list[Sample]:
    """Plan a turn's candidates, numbered from `first`. The plain ones come first. seed: of the turn."""
    plain = first + lookahead.candidates - lookahead.proactive_candidates
    indices = range(first, first + lookahead.candidates)
    return [Sample(index, index >= plain, derive_seed(seed, "candidate", index)) for index in indices]


def record_candidate(
    reply: Sequence[BaseMessage], *, proactive: bool, weighed: Mapping[str, Any] | None, error: str | None = None
) -> Candidate:
    """Record a candidate.

    weighed: its `reward`, `scores` and `futures`, as the lookahead graph gives them; None if it was not looked ahead.
    error: why the reply or the lookahead failed.
    """
    weighed = weighed or {}
    reward, futures = weighed.get("reward"), weighed.get("futures", [])
    if error is None and reward is None and futures:
        error = _why_unscored(futures)
    return Candidate(
        messages=to_dicts(reply),
        proactive=proactive,
        reward=reward,
        scores=weighed.get("scores", {}),
        futures=futures,
        error=error,
    )


def best_of(rewards: Sequence[float | None]) -> int | None:
    """Return the index of the highest reward, the first of equal ones, or None if there is no reward."""
    scored = [(index, reward) for index, reward in enumerate(rewards) if reward is not None]
    return max(scored, key=lambda one: one[1])[0] if scored else None


def _why_unscored(futures: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(dict.fromkeys(_why(future) for future in futures))


def _why(future: Mapping[str, Any]) -> str:
    unscored = [f"{name}: {future['reasons'].get(name)}" for name, score in future["scores"].items() if score is None]
    return "; ".join(unscored) or future["error"]
