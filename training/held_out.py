"""What the log of a training says of held-out conversations. A checkpoint has the log, so a resumed training knows."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from collab_agents.runs.scorecard import Scorecard
from collab_agents.training.rounds import mean_of

if TYPE_CHECKING:
    from transformers import TrainerState

REWARD, FAILED, BEST = "heldout/reward", "heldout/failed", "heldout/best_step"

Entry = Mapping[str, float]
"""An entry of the log: a `step`, and its measures."""


def entry_of(scorecard: Scorecard) -> dict[str, float]:
    """Return what to log of a scorecard with one side: each measure with a value, and the ends of its interval."""
    entry: dict[str, float] = {}
    several = len(scorecard.sets) > 1
    sides = [(one.name, one.sides[0]) for one in scorecard.sets]
    if several and (mean := mean_of([side.measures["reward"] for _, side in sides])):
        entry |= {REWARD: mean.value, f"{REWARD}/low": mean.low, f"{REWARD}/high": mean.high}
    for name, side in sides:
        prefix = f"heldout/{name}/" if several else "heldout/"
        for measure, one in side.measures.items():
            if one.value is not None and one.low is not None and one.high is not None:
                key = prefix + measure
                entry |= {key: one.value, f"{key}/low": one.low, f"{key}/high": one.high}
    return {**entry, FAILED: float(sum(side.failed for _, side in sides))}


def with_best(entry: Entry, state: "TrainerState") -> dict[str, float]:
    """Return an entry that is to be logged now, with the step of the highest reward so far."""
    now = [{**entry, "step": state.global_step}] if REWARD in entry else []
    best = best_of([*evaluations_in(state), *now])
    return {**entry, **({BEST: best["step"]} if best else {})}


def evaluations_in(state: "TrainerState") -> list[Entry]:
    """Return the entries with a held-out reward."""
    return [entry for entry in state.log_history if REWARD in entry]


def is_evaluated(state: "TrainerState") -> bool:
    """Whether the evaluation of the present step is in the log."""
    return any(FAILED in entry and entry["step"] == state.global_step for entry in state.log_history)


def best_of(entries: Sequence[Entry]) -> Entry:
    """Return the entry with the highest reward, the first of equals; empty if there is none."""
    return max(entries, key=lambda entry: entry[REWARD], default={})
