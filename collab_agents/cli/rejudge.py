"""`rejudge`: judge a run's conversations and futures again, and say where the choice would have differed."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from collab_agents._internal.addresses import spelled
from collab_agents._internal.text import harmless
from collab_agents.cli.costs import usage_table
from collab_agents.cli.progress import LOADING, print_failures
from collab_agents.cli.summary import Summary
from collab_agents.config import RejudgeConfig
from collab_agents.config.build import Models, reward_of
from collab_agents.config.sections import JudgeConfig
from collab_agents.costs import given_prices
from collab_agents.errors import ConfigError
from collab_agents.judges import JUDGES
from collab_agents.judges.base import CheckedJudge
from collab_agents.models.load import check_chat_models
from collab_agents.rewards import MultiturnReward
from collab_agents.runs import ChangedChoice, LiveTable, changed_choices, rejudge
from collab_agents.runs.choices import count_choices
from collab_agents.runs.directory import read_config, read_failures
from collab_agents.trajectories import read_trajectories
from collab_agents.usage import track_usage

_LISTED = TypeAdapter(list[JudgeConfig])
_SHOWN = 20
"""The most turns that are listed."""


async def rejudge_run(
    run: Path, config: RejudgeConfig, out: Path, *, ask_all: bool, resume: bool, private: bool
) -> bool:
    """Judge the run's trajectories again and print what changed. Returns False if one could not be judged."""
    console = Console()
    progress = LiveTable(console=console)
    with console.status(LOADING), given_prices(config.prices), track_usage(progress.usage):
        models = Models.within(config.limits)
        reward = reward_of(config.judges, models)
        reward = reward.reviewing() if config.lookahead.drop_faulty else reward
        total = progress.total = _check(run, reward)
        await check_chat_models(models.loaded.values())
    keep = [] if ask_all else _unchanged(run, config, reward)
    asked = ", ".join(name for name in reward.judges if name not in keep) or "nobody"
    kept = f"; kept from {spelled(run)}: {', '.join(keep)}" if keep else ""
    console.print(Text(f"Judging {total} trajectories again, by {asked}{kept} ..."), soft_wrap=True)
    summary = Summary()
    trajectories = rejudge(
        read_trajectories(run),
        reward=reward,
        drop_faulty=config.lookahead.drop_faulty,
        keep=keep,
        window=_window(run),
        max_concurrency=config.limits.max_concurrency,
        out=out,
        resume=resume,
        private=private,
        settings={"from": spelled(run), **config.model_dump(mode="json", include={"judges", "limits"})},
        progress=progress,
    )
    with given_prices(config.prices):
        try:
            async for trajectory in trajectories:
                summary.add(trajectory)
        finally:
            await trajectories.aclose()
    summary.print(console, "trajectories judged again")
    console.print(usage_table(progress.usage, "model calls"))
    print_choices(console, out)
    print_failures(console, read_failures(out), out / "failures.jsonl")
    return progress.failed == 0 and progress.finished + progress.skipped >= total


def print_choices(console: Console, out: Path) -> None:
    """Print in how many turns another candidate would have been chosen, and the first of them."""
    counts = count_choices(read_trajectories(out))
    if not counts["turns"]:
        return
    share = counts["changed"] / counts["turns"]
    console.print(
        f"Another candidate would have been chosen in {counts['changed']} of {counts['turns']} turns ({share:.1%}).",
        highlight=False,
    )
    if not counts["changed"]:
        return
    table = Table()
    for column in ("task", "turn", "chosen", "now", "gain in reward"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for choice in islice(_choices(out), _SHOWN):
        gain = "-" if choice.gain is None else f"{choice.gain:.3f}"
        table.add_row(Text(harmless(choice.task)), str(choice.turn), str(choice.chosen), str(choice.best), gain)
    console.print(table)
    if counts["changed"] > _SHOWN:
        console.print(f"... and {counts['changed'] - _SHOWN} more.", highlight=False)


def _choices(out: Path) -> Iterator[ChangedChoice]:
    for trajectory in read_trajectories(out):
        yield from changed_choices(trajectory)


def _window(run: Path) -> int | None:
    """Return the window of the lookahead that the run was played with, if it is on record."""
    lookahead = read_config(run).get("lookahead")
    window = lookahead.get("window") if isinstance(lookahead, dict) else None
    return window if isinstance(window, int) else None


def _check(run: Path, reward: MultiturnReward) -> int:
    """Return the number of trajectories. Raises ConfigError for a task that a judge cannot judge."""
    total = 0
    for trajectory in read_trajectories(run):
        total += 1
        if problem := reward.problem_with(trajectory.task):
            raise ConfigError(f"{spelled(run)}: {problem}")
    if not total:
        raise ConfigError(f"{spelled(run)} has no finished trajectory to judge")
    return total


def _unchanged(run: Path, config: RejudgeConfig, reward: MultiturnReward) -> list[str]:
    """Return the judges whose settings, but for the weight, are those that the run was judged with.

    Judges that run code of the user's own are not among them, since the code may have changed, and neither are those
    that review the simulated user, whose faults are not stored.
    """
    try:
        before = [_plain(one) for one in _LISTED.validate_python(read_config(run).get("judges", []))]
    except ValidationError:  # From Python, a run keeps whatever settings it was given.
        return []
    return [one.name for one in config.judges if _plain(one) in before and _stays_the_same(one, reward)]


def _plain(judge: JudgeConfig) -> JudgeConfig:
    return judge.model_copy(update={"weight": 1.0, "judge": judge.judge or judge.name})


def _stays_the_same(judge: JudgeConfig, reward: MultiturnReward) -> bool:
    known, made = JUDGES.get(judge.judge or judge.name), reward.judges[judge.name]
    reviews = isinstance(made, CheckedJudge) and made.reviews_user
    return known is not None and "function" not in known.options and not reviews
