import gc
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from collab_agents._internal.addresses import spelled
from collab_agents._internal.secrets import mask
from collab_agents._internal.sync import run as run_to_end
from collab_agents._internal.text import harmless
from collab_agents._internal.tracebacks import printed
from collab_agents.cli import ending
from collab_agents.cli.steps import end_with_parent
from collab_agents.errors import CollabError, ConfigError
from collab_agents.training.methods import Method

if TYPE_CHECKING:
    from collab_agents.config import EvalConfig, RejudgeConfig, RunConfig
    from collab_agents.runs.workers import RayOptions

C = TypeVar("C", "RunConfig", "EvalConfig", "RejudgeConfig")


class _Commands(TyperGroup):
    """Accepts --debug after the command too, where people add it to a line that failed, and --ray without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--debug" in args[1:]:
            args = ["--debug", *(one for one in args if one != "--debug")]
        if "--ray" in args:
            after = args.index("--ray") + 1
            if after == len(args) or args[after].startswith("-"):
                args = [*args[:after], _THIS_MACHINE, *args[after:]]
        return super().parse_args(ctx, args)


_THIS_MACHINE = "local"
"""The value of --ray without a value."""

app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False)
errors = Console(stderr=True, highlight=False)


def main() -> None:
    """Run the command line and exit.

    An error that a user can act on is printed as one sentence and exits with code 1, as does a run with unfinished
    tasks. Ctrl-C exits with 130. SIGTERM, which stops a command like Ctrl-C, exits with 143.
    """
    termination = ending.Termination()
    end_with_parent()
    gc.set_threshold(50_000)  # With Python's 700, loading what training takes is a tenth slower.
    code = run_command()
    ending.leave(ending.TERMINATED if termination.came and code == ending.INTERRUPTED else code)


def run_command(arguments: list[str] | None = None) -> int:
    """Run a command, by default the one in the process's arguments, and return its exit code."""
    if not sys.stderr.isatty():
        for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")
    try:
        app(arguments)
    except (CollabError, OSError) as error:
        if logging.getLogger("collab_agents").isEnabledFor(logging.DEBUG):
            errors.print(Text(printed(error)), soft_wrap=True)
        errors.print(Text.assemble(("error:", "bold red"), " ", harmless(mask(str(error)))), soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return ending.INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:  # A bug in this library, to be reported.
        errors.print(Text(printed(error)), soft_wrap=True)
        return 1
    return 0


Ray = Annotated[
    str | None,
    typer.Option(
        metavar="[auto|ADDRESS]",
        help="Play in worker processes on Ray: on this machine or, with auto or an address, on that cluster.",
    ),
]
WorkerCount = Annotated[int | None, typer.Option(min=1, help="With --ray, how many; by default as there is room.")]
WorkerResources = Annotated[
    str | None, typer.Option(metavar="JSON", help='With --ray, what each takes, such as \'{"CPU": 1, "GPU": 0.5}\'.')
]


def _ray_options(address: str | None, workers: int | None, resources: str | None) -> "RayOptions | None":
    from collab_agents._internal.reasons import first_problem
    from collab_agents.runs.workers import RayOptions

    if address is None:
        for name, value in (("--workers", workers), ("--worker-resources", resources)):
            if value is not None:
                raise ConfigError(f"{name} belongs to --ray")
        return None
    chosen: dict[str, Any] = {"address": None if address == _THIS_MACHINE else address, "workers": workers}
    try:
        return RayOptions(**chosen, **({} if resources is None else {"resources": json.loads(resources)}))
    except ValidationError as error:
        raise ConfigError(f"--worker-resources: {first_problem(error)}") from error
    except ValueError as error:
        raise ConfigError(
            f'--worker-resources must be a JSON object such as \'{{"CPU": 1, "GPU": 0.5}}\', got {resources!r}'
        ) from error


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"collab-agents {version('collab-agents')}")
        raise typer.Exit


@app.callback()
def _about(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of every error.")] = False,
) -> None:
    """Multiturn-aware rewards and scored trajectories for collaborative assistants."""
    if debug:
        logger = logging.getLogger("collab_agents")
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.DEBUG)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="The folder to write them to.")]) -> None:
    """Write commented files to start from: run.yaml, tasks, personas and a judge."""
    from collab_agents.cli.init import write_starting_files

    for file in write_starting_files(folder):
        print(file)
    print(f"Next: cd {folder} && collab-agents generate --config run.yaml --out runs/first")


@app.command()
def generate(
    config: Annotated[Path, typer.Option(help="The run's YAML file.")],
    out: Annotated[Path | None, typer.Option(help="The run directory to write, or its address.")] = None,
    parts: Annotated[
        Literal["jsonl", "parquet"] | None,
        typer.Option(help="Keep the trajectories in parts, and closed ones as this."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    shared: Annotated[bool, typer.Option("--shared", help="Let others read the files, as the umask allows.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many tasks.")] = None,
    max_concurrency: Annotated[int | None, typer.Option(min=1, help="Tasks in progress at once.")] = None,
    seed: Annotated[int | None, typer.Option(help="The run's seed, instead of the file's.")] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Play one task, keep nothing, and say what the run will cost.")
    ] = False,
    no_calls: Annotated[
        bool, typer.Option("--no-calls", help="Estimate from the configuration alone, without calling a model.")
    ] = False,
    ray: Ray = None,
    workers: WorkerCount = None,
    worker_resources: WorkerResources = None,
) -> None:
    """Run tasks with lookahead and keep the scored trajectories."""
    from collab_agents.cli.generate import generate as run
    from collab_agents.config import RunConfig, load_config

    settings = load_config(config, RunConfig)
    if limit is not None:
        settings = settings.model_copy(update={"tasks": settings.tasks.model_copy(update={"limit": limit})})
    settings = _changed(settings, max_concurrency, seed)
    if estimate:
        from collab_agents.cli.estimate import estimate as run_estimate

        run_to_end(run_estimate(settings, calls=not no_calls))
        return
    if no_calls:
        raise ConfigError("--no-calls belongs to --estimate")
    if out is None:
        raise ConfigError("--out is missing: the run directory to write")
    try:
        on = _ray_options(ray, workers, worker_resources)
        done = run_to_end(run(settings, out, parts=parts, resume=resume, private=not shared, ray=on))
    except KeyboardInterrupt:
        errors.print(
            Text(f"Stopped. Finished conversations are in {spelled(out)}; continue with --resume."), soft_wrap=True
        )
        raise
    if not done:
        raise typer.Exit(1)


@app.command()
def evaluate(
    config: Annotated[Path, typer.Option(help="The YAML file of the assistant to evaluate.")],
    out: Annotated[Path, typer.Option(help="The folder to write, or its address.")],
    parts: Annotated[
        Literal["jsonl", "parquet"] | None,
        typer.Option(help="Keep the trajectories in parts, and closed ones as this."),
    ] = None,
    against: Annotated[Path | None, typer.Option(help="The YAML file of an assistant to compare it with.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the evaluation in --out.")] = False,
    shared: Annotated[bool, typer.Option("--shared", help="Let others read the files, as the umask allows.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Run every task this many times, each with its own seed.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many tasks of each set.")] = None,
    max_concurrency: Annotated[int | None, typer.Option(min=1, help="Conversations in progress at once.")] = None,
    seed: Annotated[int | None, typer.Option(help="The first repeat's seed, instead of the file's.")] = None,
    ray: Ray = None,
    workers: WorkerCount = None,
    worker_resources: WorkerResources = None,
) -> None:
    """Run whole conversations on held-out tasks and write the scorecard."""
    from collab_agents.cli.evaluate import evaluate as run
    from collab_agents.cli.evaluate import names_of
    from collab_agents.config import AgainstConfig, EvalConfig, load_config

    names = names_of(config, against)
    settings = load_config(config, EvalConfig)
    other = load_config(against, AgainstConfig) if against else None
    if other and (section := other.different_from(settings)):
        raise ConfigError(f"{against}: {section} must be the same as in {config}, or left out")
    if limit is not None:
        tasks = [one.model_copy(update={"limit": limit}) for one in settings.tasks]
        settings = settings.model_copy(update={"tasks": tasks})
    settings = _changed(settings, max_concurrency, seed)
    try:
        on = _ray_options(ray, workers, worker_resources)
        work = run(settings, other, names, out, parts=parts, repeats=repeats, resume=resume, private=not shared, ray=on)
        done = run_to_end(work)
    except KeyboardInterrupt:
        errors.print(
            Text(f"Stopped. Finished conversations are in {spelled(out)}; continue with --resume."), soft_wrap=True
        )
        raise
    if not done:
        raise typer.Exit(1)


@app.command()
def rejudge(
    run: Annotated[Path, typer.Argument(help="The run to judge again: a directory, a file or an address.")],
    config: Annotated[Path, typer.Option(help="The YAML file with the judges.")],
    out: Annotated[Path, typer.Option(help="The run directory to write, or its address.")],
    ask_all: Annotated[bool, typer.Option("--ask-all", help="Ask judges with unchanged settings again too.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    shared: Annotated[bool, typer.Option("--shared", help="Let others read the files, as the umask allows.")] = False,
    max_concurrency: Annotated[int | None, typer.Option(min=1, help="Trajectories in progress at once.")] = None,
) -> None:
    """Judge a run's conversations and futures again, and say where the choice would have differed."""
    from collab_agents.cli.rejudge import rejudge_run
    from collab_agents.config import RejudgeConfig, load_config

    settings = _changed(load_config(config, RejudgeConfig), max_concurrency, None)
    work = rejudge_run(run, settings, out, ask_all=ask_all, resume=resume, private=not shared)
    try:
        done = run_to_end(work)
    except KeyboardInterrupt:
        _print_stopped("What was judged is", out)
        raise
    if not done:
        raise typer.Exit(1)


@app.command()
def chat(
    config: Annotated[Path, typer.Option(help="The run's YAML file.")],
    side: Annotated[Literal["user", "assistant"], typer.Option("--as", help="The side that you play.")] = "user",
    coach: Annotated[bool, typer.Option("--coach", help="Show the lookahead's scores of every reply.")] = False,
    task: Annotated[str | None, typer.Option(help="The task's id; by default the first.")] = None,
    goal: Annotated[bool, typer.Option(help="Show the task's goal to you as the user.")] = True,
    out: Annotated[Path, typer.Option(help="The run directory that the session is added to.")] = Path("runs/chat"),
) -> None:
    """Take part in a conversation at the terminal, and keep it as a trajectory."""
    from collab_agents.cli.chat import chat as run
    from collab_agents.config import RunConfig, load_config

    settings = load_config(config, RunConfig)
    run_to_end(run(settings, out, side=side, coach=coach, task_id=task, show_goal=goal))


def _print_stopped(what: str, out: Path) -> None:
    errors.print(Text(f"Stopped. {what} in {spelled(out)}; continue with --resume."), soft_wrap=True)


def _changed(settings: C, max_concurrency: int | None, seed: int | None) -> C:
    """Apply the command line's options to the settings."""
    if max_concurrency is not None:
        limits = settings.limits.model_copy(update={"max_concurrency": max_concurrency})
        settings = settings.model_copy(update={"limits": limits})
    return settings if seed is None else settings.model_copy(update={"seed": seed})


@app.command()
def judges() -> None:
    """List the judges with their options."""
    from collab_agents.cli.catalogue import print_judges

    print_judges()


@app.command()
def personas() -> None:
    """List the personas that ship with the library, with their fields."""
    from collab_agents.cli.catalogue import print_personas

    print_personas()


@app.command()
def tasks() -> None:
    """List the task sets with their options."""
    from collab_agents.cli.catalogue import print_tasks

    print_tasks()


class DatasetKind(StrEnum):
    sft = "sft"
    preference = "preference"
    prompts = "prompts"
    nested = "nested"
    flat = "flat"


class Pairs(StrEnum):
    best_worst = "best_worst"
    all = "all"


@app.command()
def dataset(
    source: Annotated[
        list[str], typer.Option("--from", help="A run directory or its address, or a dataset in a published form.")
    ],
    kind: Annotated[DatasetKind, typer.Option(help="What to make; nested and flat are the published CollabLLM forms.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    eval_share: Annotated[float, typer.Option(help="Share of the tasks that go to the split eval.")] = 0.0,
    seed: Annotated[int, typer.Option(help="The seed of that split.")] = 0,
    minimum_gap: Annotated[float, typer.Option(min=0, help="The smallest gap between a pair's rewards.")] = 0.0,
    minimum_probability: Annotated[
        float, typer.Option(min=0, max=0.999, help="The smallest probability that a pair's chosen reply is better.")
    ] = 0.0,
    pairs: Annotated[Pairs, typer.Option(help="Pairs per turn: best and worst, or all.")] = Pairs.best_worst,
    lower_bound: Annotated[list[str] | None, typer.Option(help="JUDGE=NUMBER: for sft, the lowest score.")] = None,
    best_share: Annotated[
        float, typer.Option(min=1e-6, max=1, help="For sft, the share of the tasks to keep, the best.")
    ] = 1.0,
    push_to_hub: Annotated[str | None, typer.Option(help="Also upload it to this Hub repository.")] = None,
) -> None:
    """Make a dataset for TRL from scored trajectories, as Parquet files with a card."""
    with _needing("train"):
        from collab_agents.cli.dataset import make_dataset

    make_dataset(
        kind.value,
        source,
        out,
        eval_share=eval_share,
        seed=seed,
        minimum_gap=minimum_gap,
        minimum_probability=minimum_probability,
        pairs=pairs.value,
        lower_bounds=dict(_bound(one) for one in lower_bound or []),
        best_share=best_share,
        push_to_hub=push_to_hub,
    )


train = typer.Typer(no_args_is_help=True, help="Train an assistant, or a value model, on trajectories or rewards.")
app.add_typer(train, name="train")


def _training(method: Method) -> Callable[..., None]:
    def run(
        config: Annotated[Path, typer.Option(help="The training's YAML file.")],
        out: Annotated[Path, typer.Option(help="The folder to write.")],
        resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint in --out.")] = False,
    ) -> None:
        with _needing("train"):
            from collab_agents.cli.train import train_offline, train_online
            from collab_agents.training.config import OfflineConfig, OnlineConfig
            from collab_agents.training.played import read_training

        if not method.online:
            train_offline(method, read_training(config, OfflineConfig), out, resume=resume)
        else:
            train_online(method, read_training(config, OnlineConfig), out, resume=resume)

    return run


for _method in Method:
    train.command(_method.value, help=_method.summary)(_training(_method))


@train.command("value")
def value(
    source: Annotated[list[str], typer.Option("--from", help="A run directory; may be repeated.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    model: Annotated[
        str, typer.Option(help="The frozen language model that reads replies: smollm2, a folder or a Hub repository.")
    ] = "smollm2",
    layers: Annotated[int | None, typer.Option(min=1, help="Read its first layers; by default two thirds.")] = None,
    fine_tune: Annotated[
        bool,
        typer.Option("--fine-tune", help="First fine-tune it as a reward model on half of the tasks; wants a GPU."),
    ] = False,
) -> None:
    """Fit a value model: what a reply is worth before any future is played, for `lookahead.value`."""
    with _needing("train"):
        from collab_agents.cli.value import train_value

    train_value(source, out, model=model, layers=layers, fine_tune=fine_tune)


@app.command()
def merge(
    adapter: Annotated[Path, typer.Option(help="The folder with the adapter.")],
    out: Annotated[Path, typer.Option(help="The folder to write the model to.")],
) -> None:
    """Merge a trained adapter into its model."""
    with _needing("train"):
        from collab_agents.cli.train import merge_adapter

    print(f"The model is in {merge_adapter(adapter, out)}.")


@app.command()
def export(
    model: Annotated[str, typer.Option(help="smollm2, a folder, an adapter's folder or a Hub repository.")],
    gguf: Annotated[Path, typer.Option(help="The GGUF file to write; a Modelfile for Ollama is written beside it.")],
    type: Annotated[
        Literal["f16", "bf16", "f32", "q8_0"], typer.Option(help="How the numbers of matrices are stored.")
    ] = "f16",
) -> None:
    """Write a model, or an adapter merged into its model, as one file for Ollama and llama.cpp."""
    with _needing("train"):
        from collab_agents.cli.export import export as write

    write(model, gguf, type)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="The folder with the adapter or the model.")],
    repo: Annotated[str, typer.Argument(help="The Hub repository, OWNER/NAME; created if necessary.")],
    private: Annotated[bool, typer.Option("--private/--public", help="Who sees a new repository.")] = True,
    scorecard: Annotated[
        Path | None, typer.Option(help="The scorecard.json of evaluate; in a loop, by default the round's.")
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="The licence's id on the Hub, such as apache-2.0; by default the base model's.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="The Hub repository of the base model, where that is a folder here.")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="A pattern of further files of the folder, such as samples.jsonl.")
    ] = None,
) -> None:
    """Upload a trained adapter or model to the Hub, with a card that says how good it is and how it was made."""
    with _needing("train"):
        from collab_agents.training.push import push_model

    url = push_model(
        folder,
        repo,
        private=private,
        scorecard=scorecard,
        license=license,
        base_model=base_model,
        include=include or [],
    )
    print(f"Pushed to {url}")


@app.command()
def improve(
    config: Annotated[Path, typer.Option(help="The loop's YAML file.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the loop in --out.")] = False,
) -> None:
    """Improve an assistant in rounds of generate, train and evaluate, each from the model of the round before."""
    with _needing("train"):
        from collab_agents.cli.improve import improve as run

    try:
        run(config, out, resume=resume)
    except KeyboardInterrupt:
        _print_stopped("What is done is", out)
        raise


def _bound(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError as error:
        raise ConfigError(f"--lower-bound {text!r} is not JUDGE=NUMBER, such as fact_coverage=0.5") from error


@contextmanager
def _needing(extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        if not error.name or error.name.startswith("collab_agents"):
            raise
        raise ConfigError(f"this needs pip install 'collab-agents[{extra}]' ({error.name} is missing)") from error


class GraphName(StrEnum):
    conversation = "conversation"
    lookahead = "lookahead"
    rollout = "rollout"
    lookahead_agent = "lookahead-agent"


@app.command()
def graph(name: GraphName) -> None:
    """Print one of the graphs as a Mermaid diagram."""
    from collab_agents.cli.graph import mermaid

    print(mermaid(name))


@app.command()
def compact(
    sources: Annotated[list[str], typer.Argument(help="Runs: directories, files of trajectories, or addresses.")],
    out: Annotated[Path, typer.Option(help="The run directory to write, or its address.")],
    format: Annotated[Literal["jsonl", "parquet"], typer.Option(help="The format of its parts.")] = "parquet",
    megabytes: Annotated[float, typer.Option(help="The size of a part, in millions of bytes of JSON.")] = 256,
    shared: Annotated[bool, typer.Option("--shared", help="Let others read the files, as the umask allows.")] = False,
) -> None:
    """Copy the trajectories of runs into a new run directory with few large parts."""
    from collab_agents.cli.compact import compact as run

    run(sources, out, format=format, megabytes=megabytes, private=not shared)


class Choice(StrEnum):
    """Which trajectories a report shows."""

    best = "best"
    worst = "worst"
    spread = "spread"


@app.command()
def view(
    runs: Annotated[list[Path], typer.Argument(help="Runs, evaluations, files of trajectories, or addresses.")],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port on this machine; 0 for any that is free.")
    ] = 8650,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Look at runs in a browser: their trajectories with every candidate and future, and comparisons."""
    from collab_agents.cli.view import view as serve

    serve(runs, port=port, browser=browser)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run directory, its address, or a file of trajectories.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    against: Annotated[Path | None, typer.Option(help="Another run, to compare on the tasks of both.")] = None,
    trajectories: Annotated[int, typer.Option(min=0, help="How many trajectories are in it.")] = 30,
    choose: Annotated[
        list[Choice] | None, typer.Option(help="The best, the worst, or those with the largest spread; else all three.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="The id of a further trajectory.")] = None,
    shared: Annotated[bool, typer.Option("--shared", help="Let others read the file, as the umask allows.")] = False,
) -> None:
    """Write a run's summary and trajectories to one HTML file, which opens without a server."""
    from collab_agents.cli.view import report as write

    write(run, out, against=against, trajectories=trajectories, choose=choose, tasks=task or [], private=not shared)


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="A run directory, or its address.")],
    task: Annotated[str | None, typer.Option(help="The task's id; without it, the whole run is summarised.")] = None,
    turn: Annotated[int | None, typer.Option(min=1, help="Print only this turn, from 1.")] = None,
    brief: Annotated[bool, typer.Option("--brief", help="Cut each message to one line.")] = False,
) -> None:
    """Summarise a run, or print one of its trajectories as a tree of turns, candidates, futures and scores."""
    from collab_agents.cli.show import show as print_tree

    print_tree(run, task, turn=turn, brief=brief)
