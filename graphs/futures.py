"""The record of a future, and the means over a candidate's futures. Does not know how a future is played."""

from collections.abc import Mapping, Sequence
from typing import Any

from collab_agents._internal.seeds import derive_seed
from collab_agents.graphs.states import State
from collab_agents.messages import to_dicts
from collab_agents.rewards import mean, mean_scores
from collab_agents.trajectories import Future


def future_seed(seed: int, index: int) -> int:
    """Return the seed of a future of the branch with this seed."""
    return derive_seed(seed, "future", index)


def record_future(end: State, start: int, *, drop_faulty: bool) -> Future:
    """Record a future that was judged.

    Args:
        end: Its final state.
        start: How many of the messages came before the future.
        drop_faulty: Whether it is left out of means if the user made a fault in it.
    """
    return Future(
        messages=to_dicts(end["messages"][start:]),
        reward=end["reward"],
        scores=end["scores"],
        reasons=end["reasons"],
        dropped=end.get("faults", []) if drop_faulty else [],
        error=None if end["reward"] is not None else "the future could not be scored",
    )


def counts(future: Mapping[str, Any]) -> bool:
    """Return whether a future, given as its record, is in the means: it has a reward and was not dropped."""
    return future["reward"] is not None and not future.get("dropped")


def rewards_of(futures: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Return the futures' rewards, None for those that are not in the means."""
    return [one["reward"] if counts(one) else None for one in futures]


def means_of(futures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the `reward` and the `scores` of a candidate: the means over the futures that count."""
    counted = [future for future in futures if counts(future)]
    return {
        "reward": mean(future["reward"] for future in counted),
        "scores": mean_scores([future["scores"] for future in counted]),
    }
