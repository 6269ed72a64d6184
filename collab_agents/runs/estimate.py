"""What a run will cost, estimated from one of its tasks."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from collab_agents._internal.seeds import derive_seed
from collab_agents.assistants import Assistant
from collab_agents.costs import Price, given_prices
from collab_agents.graphs.rollout import create_rollout_graph
from collab_agents.lookahead import Lookahead
from collab_agents.models import LimitedChatModel
from collab_agents.personas import Persona, pick_persona
from collab_agents.rewards import MultiturnReward
from collab_agents.tasks import Task
from collab_agents.usage import Usage, track_usage
from collab_agents.users import AnyUser


@dataclass(frozen=True)
class CostEstimate:
    """What a run of `tasks` tasks will take if every task is like the one that was played."""

    tasks: int
    usage: Usage
    """Calls, tokens and dollars."""
    seconds: float
    """The duration, if the models stay as fast as they were for one task."""


async def estimate_cost(
    task: Task,
    *,
    tasks: int,
    user: AnyUser,
    assistant: Assistant,
    reward: MultiturnReward,
    lookahead: Lookahead | None = None,
    personas: Sequence[Persona] = (),
    seed: int = 0,
    max_concurrency: int = 32,
    models: Sequence[LimitedChatModel] = (),
    prices: Mapping[str, Price] | None = None,
) -> CostEstimate:
    """Play one task with lookahead, keep nothing of it, and return what a run of many such tasks will cost.

    Args:
        task: The task to play.
        tasks: The number of tasks of the run.
        user: As for `generate_trajectories`, like the arguments that are not listed here.
        assistant: Gives the candidate replies.
        reward: Scores candidates and the finished conversation.
        lookahead: How many candidates and futures, and how long.
        personas: As for the run.
        seed: The run's seed.
        max_concurrency: Tasks in progress at once. The duration depends on it.
        models: The models whose limits the duration depends on.
        prices: Prices by model, see `given_prices`.

    Raises:
        RolloutError: If the task cannot be played.

    Example:
        estimate = await estimate_cost(tasks[0], tasks=len(tasks), user=user, assistant=assistant, reward=reward)
        print(estimate.usage.calls, estimate.usage.cost, estimate.seconds / 3600)
    """
    graph = create_rollout_graph(user, assistant, reward, lookahead)
    persona = pick_persona(personas, seed=seed, task_id=task.id)
    given = {"messages": [], "task": task, "persona": persona, "seed": derive_seed(seed, task.id)}
    busy = [model.busy_seconds for model in models]
    before = _clocks()
    with given_prices(prices or {}), track_usage() as usage:
        await graph.ainvoke(given)
    wall, thread, process = (now - then for now, then in zip(_clocks(), before, strict=True))
    calls = usage.by_model()
    bounds = [math.ceil(tasks / max_concurrency) * wall, tasks * thread, tasks * process / _cores()]
    for model, already in zip(models, busy, strict=True):
        bounds.append(tasks * (model.busy_seconds - already) / model.limits.max_concurrent_calls)
        if model.limits.requests_per_minute and model.counted_as in calls:
            bounds.append(60 * tasks * calls[model.counted_as].calls / model.limits.requests_per_minute)
    return CostEstimate(tasks, usage.times(tasks), max(bounds))


def _clocks() -> tuple[float, float, float]:
    """Return the time, this thread's CPU time and the process's, in seconds."""
    return time.monotonic(), time.thread_time(), time.process_time()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
