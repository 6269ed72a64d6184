"""The candidates of a turn: how each is sampled, and what is recorded of it. `rewards.best_of` chooses among them.

Does not know when they run: all at once in a rollout, within a budget in an agent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage

from collab_agents._internal.seeds import derive_seed
from collab_agents.graphs.states import State
from collab_agents.lookahead import Lookahead
from collab_agents.messages import to_dicts
from collab_agents.trajectories import Candidate, Expected


@dataclass(frozen=True)
class PlannedCandidate:
    """How one candidate is sampled."""

    index: int
    proactive: bool
    """Whether it is sampled with the assistant's proactive prompt."""
    seed: int
    """The seed of the reply and its futures."""


def plan_candidates(lookahead: Lookahead, seed: int, *, first: int = 0) -> list[PlannedCandidate]:
    """Plan a turn's candidates from the turn's seed, numbered from `first`. The plain ones come first."""
    plain = first + lookahead.candidates - lookahead.proactive_candidates
    indices = range(first, first + lookahead.candidates)
    return [PlannedCandidate(index, index >= plain, derive_seed(seed, "candidate", index)) for index in indices]


def record_candidate(
    reply: Sequence[BaseMessage],
    *,
    proactive: bool,
    weighed: State | None,
    expected: Expected | None = None,
    error: str | None = None,
) -> Candidate:
    """Record a candidate.

    Args:
        reply: The candidate's messages.
        proactive: Whether it was sampled with the proactive prompt.
        weighed: The lookahead graph's `reward`, `scores` and `futures`; None if there was no lookahead.
        expected: What a value model expected of it.
        error: Why the reply or the lookahead failed.
    """
    weighed = weighed or {}
    reward, futures = weighed.get("reward"), weighed.get("futures", [])
    if error is None and reward is None and futures:
        error = _why_unscored(futures)
    return Candidate(
        messages=to_dicts(reply),
        proactive=proactive,
        reward=reward,
        expected=expected,
        scores=weighed.get("scores", {}),
        futures=futures,
        error=error,
    )


def _why_unscored(futures: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(dict.fromkeys(_why(future) for future in futures))


def _why(future: Mapping[str, Any]) -> str:
    if future.get("dropped"):
        return f"dropped for faults of the simulated user: {', '.join(future['dropped'])}"
    unscored = [f"{name}: {future['reasons'].get(name)}" for name, score in future["scores"].items() if score is None]
    return "; ".join(unscored) or future["error"]
