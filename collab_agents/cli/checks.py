"""What can be said about a loop before it starts: that its models, tasks, judges and trainers' settings exist."""

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from collab_agents.cli.evaluate import task_set
from collab_agents.config import EvalConfig, RunConfig
from collab_agents.config.build import Models, personas_of, reward_of, tasks_of, user_of
from collab_agents.errors import ConfigError
from collab_agents.models.sources import ADAPTER
from collab_agents.runs import check_tasks
from collab_agents.training.config import OfflineConfig, OnlineConfig
from collab_agents.training.loop import Loop, Training, read_loop
from collab_agents.training.played import evaluation_of, played_by
from collab_agents.value import value_of


def check_loop(path: Path) -> list[int]:
    """Check what `read_loop` cannot see, and return the number of tasks of each generation.

    It is done in another process, so that what it loads does not stay in memory.

    Raises:
        ConfigError: For what is not there, or cannot be used.
    """
    # A terminal's Ctrl-C is for this process to handle.
    pool = ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    )
    with pool:
        return pool.submit(_check, path).result()


def _check(path: Path) -> list[int]:
    loop = read_loop(path)
    _check_model(loop, path)
    for section, raw in (("evaluate", loop.evaluate), ("test", loop.test)):
        if raw is not None:
            with _naming(f"{path}: {section}"):
                _check_evaluation(EvalConfig.model_validate(played_by(raw, loop.config.model)))
    tasks = []
    for generation in loop.generations:
        with _naming(generation.where):
            run = loop.generating(1, generation, loop.config.model)
            tasks.append(_check_generation(RunConfig.model_validate(run)))
    for one in loop.trainings:
        with _naming(one.where):
            _check_training(one, loop.config.model, path)
    return tasks


def _check_model(loop: Loop, path: Path) -> None:
    from collab_agents.training.policy import source_of

    with _naming(str(path)):
        if Path(source_of(loop.config.model), ADAPTER).is_file():
            raise ConfigError(f"model {loop.config.model!r} is an adapter: merge it first (collab-agents merge)")


def _check_evaluation(config: EvalConfig) -> None:
    models = Models.within(config.limits)
    for tasks in config.tasks:
        one = task_set(config, tasks, models)
        check_tasks(one.name, one.tasks, one.user, one.reward)


def _check_generation(config: RunConfig) -> int:
    models = Models.within(config.limits)
    user, reward = user_of(config.user, models), reward_of(config.judges, models)
    personas_of(config.user)
    return check_tasks(config.tasks.source, tasks_of(config.tasks), user, reward, value_of(config.lookahead))


def _check_training(training: Training, model: str, path: Path) -> None:
    from collab_agents.training.arguments import trainer_arguments
    from collab_agents.training.evaluation import check_arguments

    args = trainer_arguments(training.method.arguments, training.raw.get("trainer") or {}, path.parent)
    shape = OnlineConfig if training.method.online else OfflineConfig
    config = shape.model_validate(training.filled(model, ["trajectories"]))
    if config.evaluation is not None:
        check_arguments(args, load_best=config.evaluation.load_best)
        _check_evaluation(evaluation_of(config.evaluation, model))
    if isinstance(config, OnlineConfig):
        models = Models.within(config.reward.limits)
        user_of(config.reward.user, models)
        reward_of(config.reward.judges, models)
        if config.data.tasks is not None:
            next(tasks_of(config.data.tasks), None)


@contextmanager
def _naming(where: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
