import asyncio
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from collab_agents.cli.progress import print_failures, shown
from collab_agents.compose import compose, personas_of, tasks_of
from collab_agents.config import RunConfig
from collab_agents.graphs import Progress, check_tasks, generate_trajectories
from collab_agents.models import check_chat_model
from collab_agents.rewards import mean, mean_scores
from collab_agents.runs import read_failures
from collab_agents.trajectories import Trajectory


async def generate(config: RunConfig, out: Path, *, resume: bool, private: bool) -> bool:
    """Run it, show how it goes, and end with a table. False if a task could not be finished."""
    console = Console()
    personas = personas_of(config.user)
    parts = compose(config)
    total = check_tasks(config.tasks.source, tasks_of(config.tasks), parts.user, parts.reward)
    await asyncio.gather(*(check_chat_model(model) for model in parts.models))
    progress = Progress()
    summary = _Summary()
    trajectories = generate_trajectories(
        tasks_of(config.tasks),
        user=parts.user,
        assistant=parts.assistant,
        reward=parts.reward,
        lookahead=config.lookahead,
        personas=personas,
        seed=config.seed,
        max_concurrency=config.limits.max_concurrency,
        out=out,
        resume=resume,
        private=private,
        settings=config.model_dump(mode="json", exclude={"seed", "lookahead"}),
        progress=progress,
    )
    async with shown(console, progress, total):
        try:
            async for trajectory in trajectories:
                summary.add(trajectory)
        finally:
            await trajectories.aclose()
    console.print(summary.table())
    print_failures(console, read_failures(out), out / "failures.jsonl")
    return progress.failed == 0 and progress.finished + progress.skipped >= total


class _Summary:
    """The means of the trajectories, without keeping the trajectories."""

    def __init__(self) -> None:
        self._rewards: list[float | None] = []
        self._scores: list[dict[str, float | None]] = []
        self._exchanges: list[float] = []
        self._gaps: list[float] = []
        self._stopped: Counter[str] = Counter()

    def add(self, trajectory: Trajectory) -> None:
        self._rewards.append(trajectory.reward)
        self._scores.append(trajectory.scores)
        self._exchanges.append(len(trajectory.turns))
        self._stopped[trajectory.stopped] += 1
        for turn in trajectory.turns:
            rewards = [one.reward for one in turn.candidates if one.reward is not None]
            self._gaps.append(max(rewards) - min(rewards))

    def table(self) -> Table:
        table = Table(title=f"{len(self._rewards)} new trajectories")
        table.add_column("of a conversation")
        table.add_column("mean", justify="right")
        table.add_row("reward", _number(mean(self._rewards)))
        for name, value in mean_scores(self._scores).items():
            table.add_row(name, _number(value))
        table.add_row("exchanges", _number(mean(self._exchanges)))
        table.add_row("ended by the user", _number(self._stopped["user"] / max(len(self._rewards), 1)))
        table.add_row("best minus worst candidate of a turn", _number(mean(self._gaps)))
        return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
