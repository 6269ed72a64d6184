"""`train` and `merge`: call the training package with configuration files."""

import asyncio
import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list
from datasets import DatasetDict
from rich.console import Console
from rich.table import Table

from collab_agents.assistants import Assistant, load_assistant
from collab_agents.cli.dataset import rows_of
from collab_agents.cli.evaluate import task_set
from collab_agents.config import EvalConfig
from collab_agents.config.build import Models, assistant_of, personas_of, reward_of, tasks_of, user_of
from collab_agents.errors import ConfigError
from collab_agents.lookahead import Lookahead
from collab_agents.models import LimitedChatModel
from collab_agents.models.load import check_chat_models
from collab_agents.models.local import ENGINE_OPTIONS
from collab_agents.rewards import MultiturnReward
from collab_agents.runs import check_tasks
from collab_agents.tasks import Task
from collab_agents.training import (
    HeldOutEvaluation,
    Made,
    MultiturnRewardFunction,
    merge_adapter,
    opening_rows,
    prompt_rows,
    read_all,
    read_dataset,
    split_by_task,
)
from collab_agents.training.config import DataConfig, EvaluationConfig, OfflineConfig, OnlineConfig
from collab_agents.training.datasets import dataset_of, task_of_row
from collab_agents.training.evaluation import check_arguments
from collab_agents.training.fit import claim, last_checkpoint
from collab_agents.training.made_from import MADE_FROM
from collab_agents.training.methods import Method
from collab_agents.training.played import evaluation_of
from collab_agents.users import SimulatedUser

if TYPE_CHECKING:
    from transformers import TrainingArguments
    from trl import GRPOConfig

    from collab_agents.training.online_dpo import OnlineDPOConfig

__all__ = ["merge_adapter", "train_offline", "train_online"]

OPENED = "prompts.jsonl"
"""The file in the training's folder with the users' first messages."""

# TRL still uses `gradient_checkpointing`, which transformers is renaming. Users need not act on the warning.
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def train_offline(method: Method, config: OfflineConfig, out: Path, *, resume: bool) -> None:
    console = _console()
    kept = {"data": config.data.model_dump(), **_kept(config.evaluation)}
    args = claim(
        method.value, method.arguments, config.model, out, trainer=config.trainer, resume=resume, settings=kept
    )
    evaluation = _evaluation(config.evaluation, config.model.name, args)
    data = _data(method, config.data, out, console)
    logs = method.train(
        config.model, data, out, trainer=config.trainer, evaluation=evaluation, resume=resume, settings=kept
    )
    _finish(console, method, logs, out, evaluation)


def train_online(method: Method, config: OnlineConfig, out: Path, *, resume: bool) -> None:
    console = _console()
    app = _app(method, config)
    kept: dict[str, Any] = {
        "data": config.data.model_dump(mode="json"),
        "reward": config.reward.model_dump(mode="json"),
        **({"assistant": config.assistant.model_dump(mode="json")} if config.assistant else {}),
        **_kept(config.evaluation),
    }
    args: GRPOConfig | OnlineDPOConfig = claim(
        method.value, _arguments(method, app), config.model, out, trainer=config.trainer, resume=resume, settings=kept
    )
    evaluation = _evaluation(config.evaluation, config.model.name, args, app, kept.get("assistant"))
    models = Models.within(config.reward.limits)
    reward, user = reward_of(config.reward.judges, models), user_of(config.reward.user, models)
    assistant = models.get(config.reward.policy) if config.reward.policy else None
    asyncio.run(_reachable(models))
    new_tokens = args.max_new_tokens if method is Method.online_dpo else args.max_completion_length
    function = MultiturnRewardFunction(
        user,
        reward,
        Lookahead(**config.reward.model_dump(include={"futures", "window", "drop_faulty"})),
        assistant=assistant,
        temperature=config.reward.temperature or args.temperature,
        max_tokens=config.reward.max_tokens or new_tokens or 256,
        batch_size=config.reward.batch_size,
        max_concurrency=config.reward.max_concurrency,
        max_staleness=config.reward.max_staleness,
        seed=config.reward.seed,
        ray=config.reward.ray,
    )
    data = _prompts(config, user, args, out, console)
    _check_judgeable(data, user, reward)
    logs = method.train(
        config.model,
        data,
        function,
        out,
        trainer=config.trainer,
        samples=config.samples,
        evaluation=evaluation,
        resume=resume,
        settings=kept,
        **({"app": app} if app else {}),
    )
    _finish(console, method, logs, out, evaluation)


def _app(method: Method, config: OnlineConfig) -> Assistant | None:
    """Return the app to train, if the file names one."""
    if config.assistant is None:
        return None
    if method is not Method.grpo:
        raise ConfigError(f"assistant: {method} trains a chat model alone: train the app by grpo, or leave it out")
    if config.data.system_prompt is not None:
        raise ConfigError("data.system_prompt: an app has prompts of its own: leave it out")
    if config.reward.policy is not None:
        raise ConfigError("reward.policy: the app that is trained plays the futures of its turns: leave it out")
    if config.evaluation is not None and "assistant" in config.evaluation.config:  # Its sections were read.
        raise ConfigError("evaluation.config.assistant: the app that is trained is evaluated: leave it out")
    return load_assistant(config.assistant.app, options=config.assistant.options)


def _arguments(method: Method, app: Assistant | None) -> "type[Any]":
    if app is None:
        return method.arguments
    from collab_agents.training.app_trainer import AppGRPOConfig  # Imports TRL's trainer.

    return AppGRPOConfig


def _kept(section: EvaluationConfig | None) -> dict[str, object]:
    """Return what training.json says of the evaluation."""
    return {} if section is None else {"evaluation": section.model_dump(mode="json")}


def _evaluation(
    section: EvaluationConfig | None,
    model: str,
    args: "TrainingArguments",
    app: Assistant | None = None,
    settings: dict[str, Any] | None = None,
) -> HeldOutEvaluation | None:
    """Return the evaluation of a training, with everything that it takes loaded and checked."""
    if section is None:
        return None
    check_arguments(args, load_best=section.load_best)
    config = evaluation_of(section, model)
    models = Models.within(config.limits)
    sets = [task_set(config, tasks, models) for tasks in config.tasks]
    chosen = config.assistant.model
    assert chosen is not None
    sampling = {"temperature": chosen.temperature, "max_tokens": chosen.max_tokens, **chosen.options}
    evaluation = HeldOutEvaluation(
        sets,
        every=section.every,
        patience=section.patience,
        load_best=section.load_best,
        assistant=lambda chat: app or _assistant(config, chat),
        sampling={name: value for name, value in sampling.items() if name not in ENGINE_OPTIONS},
        batch_size=section.batch_size,
        repeats=section.repeats,
        seed=config.seed,
        max_concurrency=config.limits.max_concurrency,
        conversations=section.conversations,
        prices=config.prices,
        checkpoints=config.checkpoints,
        settings=settings or config.assistant.model_dump(mode="json"),
    )
    asyncio.run(_reachable(models))
    return evaluation


def _assistant(config: EvalConfig, chat: LimitedChatModel) -> Assistant:
    assert config.assistant.model is not None
    return assistant_of(config.assistant, Models(config.limits, {config.assistant.model.model_dump_json(): chat}))


async def _reachable(models: Models) -> None:
    await check_chat_models(models.loaded.values())


def _data(method: Method, config: DataConfig, out: Path, console: Console) -> DatasetDict:
    kind = "sft" if method is Method.sft else "preference"
    if config.dataset is not None:
        return _read(config.dataset, kind, config.eval_share, config.seed)
    made = rows_of(kind, config)
    _report(made, out, console)
    return split_by_task(made.dataset(), eval_share=config.eval_share, seed=config.seed)


def _prompts(
    config: OnlineConfig, user: SimulatedUser, args: "GRPOConfig | OnlineDPOConfig", out: Path, console: Console
) -> DatasetDict:
    wanted = config.data
    if wanted.dataset is not None:
        return _read(wanted.dataset, "prompts", wanted.eval_share, wanted.seed)
    if wanted.tasks is not None:
        # A model may play the user and say something else each time, so ask once for all processes and resumptions.
        opened = out / OPENED
        rows: list[Any] = [None]
        if args.process_index == 0:
            if last_checkpoint(out) is None or not opened.exists():
                made = asyncio.run(_openings(config, user))
                _report(made, out, console)
                opened.write_text("".join(json.dumps(row) + "\n" for row in made.dataset()), encoding="utf-8")
            rows = [[json.loads(line) for line in opened.read_text(encoding="utf-8").splitlines()]]
        data = dataset_of(broadcast_object_list(rows)[0])
    else:
        made = prompt_rows(read_all(wanted.runs), system_prompt=wanted.system_prompt)
        _report(made, out, console)
        data = made.dataset()
    return split_by_task(data, eval_share=wanted.eval_share, seed=wanted.seed)


def _report(made: Made, out: Path, console: Console) -> None:
    """Print what the dataset was made from and, in the main process, keep it."""
    console.print(made.report(), soft_wrap=True)
    if not console.quiet:
        (out / MADE_FROM).write_text(made.record().model_dump_json(indent=2) + "\n", encoding="utf-8")


async def _openings(config: OnlineConfig, user: SimulatedUser) -> Made:
    assert config.data.tasks is not None
    return await opening_rows(
        tasks_of(config.data.tasks),
        user,
        personas=personas_of(config.reward.user),
        seed=config.data.seed,
        system_prompt=config.data.system_prompt,
    )


def _read(source: str, kind: str, eval_share: float, seed: int) -> DatasetDict:
    data = read_dataset(source, kind)
    if not eval_share:
        return data
    if "eval" in data:
        raise ConfigError(f"data.eval_share: {source} already has a held-out split; leave eval_share out")
    if "task_id" not in data["train"].column_names:
        raise ConfigError("data.eval_share: the dataset has no column 'task_id' to split by; leave eval_share out")
    return split_by_task(data["train"], eval_share=eval_share, seed=seed)


def _check_judgeable(data: DatasetDict, user: SimulatedUser, reward: MultiturnReward) -> None:
    seen: dict[str, Task] = {}
    for rows in data.values():
        for row in rows:
            task = task_of_row(row)
            seen.setdefault(task.id, task)
    check_tasks("data", seen.values(), user, reward)


def _console() -> Console:
    return Console(highlight=False, quiet=os.environ.get("RANK", "0") != "0")


def _finish(
    console: Console, method: str, logs: dict[str, float], out: Path, evaluation: HeldOutEvaluation | None
) -> None:
    table = Table(title=f"{method}: last logged values")
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name in _shown(logs):
        table.add_row(name, f"{logs[name]:.4g}")
    console.print(table)
    if evaluation is not None and (summary := evaluation.summary()):
        console.print(summary, soft_wrap=True)
    console.print(f"The model, its logs and training_curves.png are in {out}.", soft_wrap=True)


def _shown(logs: dict[str, float]) -> Iterable[str]:
    first = (
        "step",
        "epoch",
        "train_loss",
        "train_runtime",
        "loss",
        "reward",
        "eval_loss",
        "kl",
        "value_loss",
        "unscored",
    )
    return [
        name for name in logs if name in first or name.startswith(("judges/", "rewards/", "objective/", "pairs_kept"))
    ]
