from pathlib import Path

from rich.console import Console

from collab_agents.cli.costs import check_prices, usage_table
from collab_agents.cli.progress import LOADING, print_failures
from collab_agents.cli.summary import Summary
from collab_agents.config import RunConfig
from collab_agents.config.build import compose, personas_of, tasks_of
from collab_agents.costs import given_prices
from collab_agents.errors import LimitReached
from collab_agents.models.elsewhere import loaded_elsewhere
from collab_agents.models.load import check_chat_models
from collab_agents.runs import LiveTable, check_tasks, generate_trajectories
from collab_agents.runs.directory import read_failures, read_totals
from collab_agents.runs.parts import PartFormat, Parts
from collab_agents.runs.workers import RayOptions
from collab_agents.usage import Usage, track_usage
from collab_agents.value import value_of


async def generate(
    config: RunConfig,
    out: Path,
    *,
    parts: PartFormat | None,
    resume: bool,
    private: bool,
    ray: RayOptions | None = None,
) -> bool:
    """Generate the trajectories, show the progress, and print a table. Returns False if a task was not finished."""
    console, look = Console(), config.lookahead
    progress = LiveTable(console=console)
    elsewhere = loaded_elsewhere(ray is not None)
    with console.status(LOADING), elsewhere, given_prices(config.prices), track_usage(progress.usage):
        personas = personas_of(config.user)
        played, value = compose(config), value_of(look)
        total = check_tasks(config.tasks.source, tasks_of(config.tasks), played.user, played.reward, value)
        progress.total = total
        check_prices(config.limits, played.models)
        await check_chat_models(played.models, calls_from_here=ray is None or ray.address is None)
    console.print(
        f"Playing {total} tasks: {look.candidates} candidates at each turn, {look.futures_in_words} futures after each "
        "...",
        highlight=False,
    )
    summary = Summary()
    trajectories = generate_trajectories(
        tasks_of(config.tasks),
        user=played.user,
        assistant=played.assistant,
        reward=played.reward,
        lookahead=look,
        personas=personas,
        seed=config.seed,
        max_concurrency=config.limits.max_concurrency,
        out=Parts(out, format=parts) if parts else out,
        resume=resume,
        private=private,
        checkpoints=config.checkpoints,
        settings=config.model_dump(mode="json", exclude={"seed", "lookahead"}),
        limits=config.limits,
        prices=config.prices,
        progress=progress,
        value=value,
        ray=ray,
    )
    reached: LimitReached | None = None
    try:
        async for trajectory in trajectories:
            summary.add(trajectory)
    except LimitReached as error:
        reached = error
    finally:
        await trajectories.aclose()
    summary.print(console, "new trajectories")
    console.print(usage_table(Usage.of(read_totals(out)), "model calls, earlier attempts included"))
    print_failures(console, read_failures(out), out / "failures.jsonl")
    if reached is not None:
        raise reached
    return progress.failed == 0 and progress.finished + progress.skipped >= total
