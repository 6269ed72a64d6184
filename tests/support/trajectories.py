"""Trajectories made by hand, with the rewards that a test wants."""

from typing import Any

from collab_agents.tasks import Task
from collab_agents.trajectories import Candidate, Trajectory, Turn


def said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def reply(text: str, reward: float | None, **scores: float) -> Candidate:
    return Candidate(messages=[said("assistant", text)], reward=reward, scores=scores)


def trajectory(task: str, *rewards: float | None, final: float | None = 0.5, **scores: float) -> Trajectory:
    """One of two turns, each with a candidate for each reward."""
    candidates = [reply(f"{task} {i}", reward) for i, reward in enumerate(rewards)]
    opening = [said("user", f"do {task}")]
    later = [*opening, said("assistant", f"{task} 0"), said("user", "more")]
    return Trajectory(
        task=Task(id=task, kind="note", goal=f"You want {task}.", reference="ref", metadata={"n": 1}),
        messages=[*later, said("assistant", f"{task} 0"), said("user", "thanks")],
        stopped="user",
        turns=[
            Turn(prompt=opening, chosen=0, candidates=candidates),
            Turn(prompt=later, chosen=0, candidates=candidates),
        ],
        reward=final,
        scores=scores,
    )
