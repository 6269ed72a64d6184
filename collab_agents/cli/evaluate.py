from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from collab_agents._internal.addresses import place_at, spelled
from collab_agents._internal.text import harmless
from collab_agents.cli.costs import check_prices, usage_table
from collab_agents.cli.progress import LOADING, print_failures
from collab_agents.config import AgainstConfig, EvalConfig, JudgeConfig, TaskSetConfig
from collab_agents.config.build import Models, assistant_of, personas_of, reward_of, tasks_of, user_of
from collab_agents.costs import given_prices
from collab_agents.errors import ConfigError
from collab_agents.judges import JUDGES
from collab_agents.models.elsewhere import loaded_elsewhere
from collab_agents.models.load import check_chat_models
from collab_agents.runs import LiveTable, TaskSet, check_tasks
from collab_agents.runs import evaluate as play
from collab_agents.runs.directory import read_failures
from collab_agents.runs.evaluate import run_folders
from collab_agents.runs.parts import PartFormat, Parts
from collab_agents.runs.scorecard import Scorecard, SetScores
from collab_agents.runs.scorecard_text import BRACKETS, cells_of, scorecard_markdown, title_of, unscored_in
from collab_agents.runs.workers import RayOptions
from collab_agents.trajectories import opener
from collab_agents.usage import track_usage


async def evaluate(
    config: EvalConfig,
    against: AgainstConfig | None,
    names: Sequence[str],
    out: Path,
    *,
    parts: PartFormat | None,
    repeats: int,
    resume: bool,
    private: bool,
    ray: RayOptions | None = None,
) -> bool:
    """Run the evaluation, write scorecard.json and scorecard.md, and print the tables.

    `names` are the assistants' names in the tables. Returns False if a conversation could not be finished.
    """
    console = wide_console()
    progress = LiveTable(console=console)
    elsewhere = loaded_elsewhere(ray is not None)
    with console.status(LOADING), elsewhere, given_prices(config.prices), track_usage(progress.usage):
        models = Models.within(config.limits)
        sections = dict(zip(names, [config.assistant, *([against.assistant] if against else [])], strict=False))
        assistants = {name: assistant_of(section, models) for name, section in sections.items()}
        sets = [task_set(config, tasks, models) for tasks in config.tasks]
        tasks = sum(check_tasks(one.name, one.tasks, one.user, one.reward) for one in sets)
        progress.total = tasks * len(assistants) * repeats
        check_prices(config.limits, models.loaded.values())
        await check_chat_models(models.loaded.values(), calls_from_here=ray is None or ray.address is None)
    console.print(f"Playing {progress.total} conversations ...", highlight=False)
    scorecard = await play(
        sets,
        assistants,
        seed=config.seed,
        repeats=repeats,
        max_concurrency=config.limits.max_concurrency,
        out=Parts(out, format=parts) if parts else out,
        resume=resume,
        private=private,
        checkpoints=config.checkpoints,
        settings={name: _plain(section) for name, section in sections.items()},
        limits=config.limits,
        prices=config.prices,
        progress=progress,
        ray=ray,
    )
    _write(scorecard, out, private=private)
    for one in scorecard.sets:
        console.print(_table(one, console))
        for line in unscored_in(one):
            console.print(Text(harmless(line), style="yellow"), soft_wrap=True)
    folders = run_folders([one.name for one in sets], list(assistants), repeats).values()
    console.print(usage_table(progress.usage, "model calls"))
    print_failures(console, [failure for folder in folders for failure in read_failures(out / folder)], out)
    console.print(
        Text(f"{BRACKETS} Also in {spelled(out)}/scorecard.md and {spelled(out)}/scorecard.json."), soft_wrap=True
    )
    return not any(side.failed for one in scorecard.sets for side in one.sides)


def names_of(config: Path, against: Path | None) -> list[str]:
    """Return the assistants' names: those of their files, with the second's folder if both are the same."""
    if against is None:
        return [config.stem]
    if config.resolve() == against.resolve():
        raise ConfigError(f"--against {against} is the same file as --config: choose another")
    other = against.stem if against.stem != config.stem else f"{against.resolve().parent.name}-{against.stem}"
    return [config.stem, other]


def task_set(config: EvalConfig, tasks: TaskSetConfig, models: Models) -> TaskSet:
    """Return one of the task sets of an evaluation, with what plays and judges it."""
    user = tasks.user or config.user
    judges = tasks.judges or config.judges
    return TaskSet(
        name=tasks.name or tasks.source,
        tasks=list(tasks_of(tasks)),
        user=user_of(user, models),
        reward=reward_of(judges, models),
        metric=tasks.metric or _metric(judges),
        personas=personas_of(user),
        max_exchanges=tasks.max_exchanges or config.lookahead.max_exchanges,
        settings={
            "user": _plain(user),
            "judges": [_plain(judge) for judge in judges],
            "tasks": tasks.model_dump(mode="json", exclude={"name", "user", "judges", "metric", "max_exchanges"}),
        },
    )


def _metric(judges: Sequence[JudgeConfig]) -> str | None:
    for judge in judges:
        known = JUDGES.get(judge.judge or judge.name)
        if known is None or known.metric:
            return judge.name
    return None


def _plain(section: BaseModel) -> dict[str, object]:
    return section.model_dump(mode="json")


def _write(scorecard: Scorecard, out: Path, *, private: bool) -> None:
    texts = {
        "scorecard.json": scorecard.model_dump_json(indent=2) + "\n",
        "scorecard.md": scorecard_markdown(scorecard),
    }
    place = place_at(out)
    for name, text in texts.items():
        file = place / name
        if isinstance(file, Path):
            with open(file, "w", encoding="utf-8", opener=opener(private)) as written:
                written.write(harmless(text))
        else:
            file.write(harmless(text).encode())


def wide_console() -> Console:
    """Return a console that is wide if it is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _table(scores: SetScores, console: Console) -> Table:
    """Return a table with a column per measure or, if that is too wide, a row per measure."""
    header, rows = cells_of(scores)
    table = _rich(title_of(scores), [header, *rows])
    if Console(width=10_000).measure(table).maximum <= console.width:
        return table
    return _rich(title_of(scores), list(zip(header, *rows, strict=True)))


def _rich(title: str, lines: Sequence[Sequence[str]]) -> Table:
    table = Table(title=Text(title), show_lines=True)
    for number, name in enumerate(lines[0]):
        table.add_column(Text(name), justify="right" if number else "left")
    for line in lines[1:]:
        table.add_row(*(Text(cell) for cell in line))
    return table
