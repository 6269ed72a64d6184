import asyncio
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from collab_agents.cli.compose import check_tasks, compose, tasks_of
from collab_agents.config import RunConfig
from collab_agents.graphs import Progress, generate_trajectories
from collab_agents.models import check_chat_model
from collab_agents.rewards import mean, mean_scores
from collab_agents.runs import read_failures
from collab_agents.trajectories import Trajectory

PLAIN_SECONDS = 5.0


async def generate(config: RunConfig, out: Path, *, resume: bool) -> bool:
    """Run it, show how it goes, and end with a table. False if there is nothing in the run but failures."""
    console = Console()
    total = check_tasks(config)
    parts = compose(config)
    await asyncio.gather(*(check_chat_model(model) for model in parts.models))
    progress = Progress()
    summary = _Summary()
    started = time.monotonic()
    settings = config.model_dump(mode="json", exclude={"seed", "lookahead"})
    trajectories = generate_trajectories(
        tasks_of(config),
        user=parts.user,
        assistant=parts.assistant,
        reward=parts.reward,
        lookahead=config.lookahead,
        personas=config.user.personas,
        seed=config.seed,
        max_concurrency=config.limits.max_concurrency,
        out=out,
        resume=resume,
        settings=settings,
        progress=progress,
    )
    shown = asyncio.create_task(_show_progress(console, progress, total, started))
    try:
        async for trajectory in trajectories:
            summary.add(trajectory)
    finally:
        await trajectories.aclose()
        shown.cancel()
        with suppress(asyncio.CancelledError):
            await shown
    console.print(_line(progress, total, started), soft_wrap=True)
    console.print(summary.table())
    _print_failures(console, out)
    return progress.finished + progress.skipped > 0


def _line(progress: Progress, total: int, started: float) -> str:
    seconds = time.monotonic() - started
    usage = progress.usage
    done = progress.finished + progress.skipped
    return (
        f"tasks {done}/{total} ({progress.running} under way, {progress.failed} failed)  turns {progress.turns}  "
        f"calls {usage.calls}  tokens {usage.input_tokens + usage.output_tokens:,}  "
        f"{usage.calls / max(seconds, 1e-3):.1f} calls/s  {seconds:.0f} s"
    )


async def _show_progress(console: Console, progress: Progress, total: int, started: float) -> None:
    if not console.is_terminal:
        while True:
            await asyncio.sleep(PLAIN_SECONDS)
            console.print(_line(progress, total, started), soft_wrap=True)
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while True:
            live.update(Text(_line(progress, total, started)), refresh=True)
            await asyncio.sleep(0.2)


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


def _print_failures(console: Console, out: Path) -> None:
    failures = read_failures(out)
    for reason, count in Counter(failure.error for failure in failures).most_common(3):
        console.print(Text(f"{count} failed: {reason}", style="red"), soft_wrap=True)
    if failures:
        console.print(f"All failures are in {out / 'failures.jsonl'}; --resume tries them again.", soft_wrap=True)
