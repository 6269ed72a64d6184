"""Runs of `generate_trajectories` that need no model."""

from typing import Any

from collab_agents import AgendaUser, Lookahead, MultiturnReward, generate_trajectories
from collab_agents.judges import fact_coverage, token_cost
from collab_agents.trajectories import Trajectory
from tests.support.participants import Counts

SMALL = Lookahead(candidates=2, futures=2, window=1, max_exchanges=2)


def generate(tasks: Any, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "user": AgendaUser(),
        "assistant": Counts(),
        "reward": MultiturnReward({"fact_coverage": fact_coverage(), "token_cost": token_cost()}),
        "lookahead": SMALL,
    }
    return generate_trajectories(tasks, **(defaults | options))


async def collect(tasks: Any, **options: Any) -> dict[str, Trajectory]:
    return {one.task.id: one async for one in generate(tasks, **options)}
