"""Turns whose rewards have known variances."""

from collections.abc import Sequence

import numpy as np

from collab_agents import Task, Trajectory
from collab_agents.rewards import best_of, mean
from collab_agents.trajectories import Candidate, Future, Turn

Rewards = Sequence[Sequence[float | None]]
"""By candidate and future."""


def turn_of(rewards: Rewards) -> Turn:
    candidates = [
        Candidate(
            messages=[{"role": "assistant", "content": f"reply {index}"}],
            reward=mean(each),
            futures=[Future(reward=one, scores={"facts": one, "cost": one and -one}) for one in each],
        )
        for index, each in enumerate(rewards)
    ]
    return Turn(
        prompt=[{"role": "user", "content": "Hi"}],
        chosen=best_of([one.reward for one in candidates]) or 0,
        candidates=candidates,
    )


def played(turns: Sequence[Rewards], task: str = "one") -> Trajectory:
    return Trajectory(
        task=Task(id=task, goal="a text"), messages=[], stopped="user", turns=[turn_of(one) for one in turns]
    )


def synthetic(
    tasks: int, between: float, within: float, *, candidates: int = 4, futures: int = 3, seed: int = 0
) -> tuple[list[Trajectory], list[list[float]]]:
    """Trajectories of two turns, and the true rewards of each turn's candidates."""
    random = np.random.default_rng(seed)
    true = random.normal(size=(tasks, 2, 1)) + between**0.5 * random.normal(size=(tasks, 2, candidates))
    rewards = true[..., None] + within**0.5 * random.normal(size=(*true.shape, futures))
    made = [played(one.tolist(), f"task-{number}") for number, one in enumerate(rewards)]
    return made, true.reshape(-1, candidates).tolist()
