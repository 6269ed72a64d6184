"""`train`, `dataset` and `merge`: from configuration files to the training package."""

import asyncio
import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from rich.console import Console
from rich.table import Table

from collab_agents.cli.compose import Models, reward_of, tasks_of, user_of
from collab_agents.errors import ConfigError
from collab_agents.graphs import check_tasks
from collab_agents.models import check_chat_model
from collab_agents.training import (
    Made,
    MultiturnRewardFunction,
    opening_rows,
    preference_rows,
    prompt_rows,
    push_dataset,
    read_all,
    read_dataset,
    save_dataset,
    sft_rows,
    split_by_task,
    to_flat,
    to_nested,
    train_dpo,
    train_grpo,
    train_online_dpo,
    train_ppo,
    train_sft,
)
from collab_agents.training.config import DataConfig, OfflineConfig, OnlineConfig, RewardConfig

# TRL still says `gradient_checkpointing`, which transformers is renaming: nothing for its user to do.
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")

OFFLINE = {"sft": train_sft, "dpo": train_dpo}
ONLINE = {"ppo": train_ppo, "grpo": train_grpo, "online-dpo": train_online_dpo}


def train_offline(method: str, config: OfflineConfig, out: Path, *, resume: bool) -> None:
    console = _console()
    data = _data(method, config.data, console)
    kept = {"data": config.data.model_dump()}
    logs = OFFLINE[method](config.model, data, out, trainer=config.trainer, resume=resume, settings=kept)
    _finish(console, method, logs, out)


def train_online(method: str, config: OnlineConfig, out: Path, *, resume: bool) -> None:
    console = _console()
    models = Models.within(config.reward.limits)
    reward, user = reward_of(config.reward.judges, models), user_of(config.reward.user, models)
    assistant = models.get(config.reward.policy) if config.reward.policy else None
    asyncio.run(_reachable(models))
    data = _prompts(config, user, console)
    function = MultiturnRewardFunction(
        user,
        reward,
        futures=config.reward.futures,
        window=config.reward.window,
        assistant=assistant,
        temperature=config.reward.temperature or float(config.trainer.get("temperature", 1.0)),
        max_tokens=config.reward.max_tokens or _new_tokens(method, config.trainer),
        batch_size=config.reward.batch_size,
        max_concurrency=config.reward.max_concurrency,
        seed=config.reward.seed,
    )
    _check_judgeable(config.reward, data, user, reward)
    kept = {"data": config.data.model_dump(mode="json"), "reward": config.reward.model_dump(mode="json")}
    logs = ONLINE[method](config.model, data, function, out, trainer=config.trainer, resume=resume, settings=kept)
    _finish(console, method, logs, out)


def make_dataset(
    kind: str,
    sources: list[str],
    out: Path,
    *,
    eval_share: float,
    seed: int,
    minimum_gap: float,
    pairs: str,
    lower_bounds: dict[str, float],
    push_to_hub: str | None,
) -> None:
    console = Console()
    if kind in ("nested", "flat"):
        made = Made(kind)
        trajectories = list(read_all(sources))
        made.made_from = len(trajectories)
        made.rows = list((to_nested if kind == "nested" else to_flat)(trajectories))
        made.rewards = [one.reward for one in trajectories if one.reward is not None]
        for row in made.rows:  # Arrow has no place for objects that differ from row to row.
            row["single_turn_metadata"] = json.dumps(row["single_turn_metadata"])
            row["task_id"] = row["conv_id"]
    else:
        options = DataConfig(runs=sources, minimum_gap=minimum_gap, pairs=pairs, lower_bounds=lower_bounds)
        made = _made(kind, options)
    data = split_by_task(made.dataset(), eval_share=eval_share, seed=seed)
    how: dict[str, Any] = {"kind": kind, "from": sources, "eval_share": eval_share, "seed": seed}
    if kind == "preference":
        how |= {"minimum_gap": minimum_gap, "pairs": pairs}
    if lower_bounds:
        how["lower_bounds"] = lower_bounds
    save_dataset(data, made, out, how=how)
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in data.items())
    console.print(f"{made.report()}. In {out}: {counts}.", soft_wrap=True, highlight=False)
    if push_to_hub is not None:
        console.print(f"Pushed to {push_dataset(out, push_to_hub)}", soft_wrap=True)


async def _reachable(models: Models) -> None:
    await asyncio.gather(*(check_chat_model(model) for model in models.loaded.values()))


def _data(method: str, config: DataConfig, console: Console) -> DatasetDict:
    kind = "sft" if method == "sft" else "preference"
    if config.dataset is not None:
        rows = read_dataset(config.dataset, kind)
        return _split(rows, config.eval_share, config.seed)
    made = _made(kind, config)
    console.print(made.report(), soft_wrap=True)
    return split_by_task(made.dataset(), eval_share=config.eval_share, seed=config.seed)


def _made(kind: str, config: DataConfig) -> Made:
    trajectories = read_all(config.runs)
    if kind == "sft":
        return sft_rows(trajectories, lower_bounds=config.lower_bounds, system_prompt=config.system_prompt)
    if kind == "preference":
        return preference_rows(
            trajectories, minimum_gap=config.minimum_gap, pairs=config.pairs, system_prompt=config.system_prompt
        )
    return prompt_rows(trajectories, system_prompt=config.system_prompt)


def _prompts(config: OnlineConfig, user: Any, console: Console) -> DatasetDict:
    wanted = config.data
    if wanted.dataset is not None:
        return _split(read_dataset(wanted.dataset, "prompts"), wanted.eval_share, wanted.seed)
    if wanted.tasks is not None:
        opened = opening_rows(
            tasks_of(wanted.tasks),
            user,
            personas=config.reward.user.personas,
            seed=wanted.seed,
            system_prompt=wanted.system_prompt,
        )
        made = asyncio.run(opened)
    else:
        made = prompt_rows(read_all(wanted.runs), system_prompt=wanted.system_prompt)
    console.print(made.report(), soft_wrap=True)
    return split_by_task(made.dataset(), eval_share=wanted.eval_share, seed=wanted.seed)


def _split(rows: Dataset, eval_share: float, seed: int) -> DatasetDict:
    if eval_share and "task_id" not in rows.column_names:
        raise ConfigError("data.eval_share: the dataset has no column 'task_id' to split by; leave it out")
    return split_by_task(rows, eval_share=eval_share, seed=seed) if eval_share else DatasetDict({"train": rows})


def _check_judgeable(config: RewardConfig, data: DatasetDict, user: Any, reward: Any) -> None:
    from collab_agents.training.datasets import task_of_row

    seen: dict[str, Any] = {}
    for rows in data.values():
        for row in rows:
            task = task_of_row(row)
            seen.setdefault(task.id, task)
    check_tasks("data", seen.values(), user, reward)


def _new_tokens(method: str, trainer: dict[str, Any]) -> int:
    return int(
        trainer.get("max_new_tokens", 64) if method == "online-dpo" else trainer.get("max_completion_length", 256)
    )


def _console() -> Console:
    return Console(highlight=False, quiet=os.environ.get("RANK", "0") != "0")


def _finish(console: Console, method: str, logs: dict[str, float], out: Path) -> None:
    table = Table(title=f"{method}: the last of what was logged")
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name in _shown(logs):
        table.add_row(name, f"{logs[name]:.4g}")
    console.print(table)
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
