"""Where the rewards on record would have chosen another candidate than the one that was played."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from collab_agents.rewards import best_in, mean
from collab_agents.trajectories import Trajectory


@dataclass(frozen=True)
class ChangedChoice:
    """A turn in which another candidate is the best than the one that continued the conversation."""

    task: str
    """The task's id."""
    turn: int
    """From 1."""
    chosen: int
    """The index of the candidate that was played."""
    best: int
    """The index of the best candidate (`rewards.best_in`), the first of equal ones."""
    gain: float | None
    """How much higher its reward is. None if the candidate that was played has none."""


def changed_choices(trajectory: Trajectory) -> Iterator[ChangedChoice]:
    """Yield the turns in which the rewards would have chosen another candidate, after `rejudge` by the new rewards.

    Turns in which no candidate has a reward are left out.
    """
    for number, turn in enumerate(trajectory.turns, 1):
        rewards = [candidate.reward for candidate in turn.candidates]
        best = best_in(trajectory.turns[:number])
        if best is not None and best != turn.chosen:
            highest, played = rewards[best], rewards[turn.chosen]
            gain = None if highest is None or played is None else highest - played
            yield ChangedChoice(trajectory.task.id, number, turn.chosen, best, gain)


def count_choices(trajectories: Iterable[Trajectory]) -> dict[str, int]:
    """Return the number of `turns` in which a candidate has a reward, and of those that would have `changed`."""
    turns = changed = 0
    for trajectory in trajectories:
        turns += sum(mean(one.reward for one in turn.candidates) is not None for turn in trajectory.turns)
        changed += sum(1 for _ in changed_choices(trajectory))
    return {"turns": turns, "changed": changed}
