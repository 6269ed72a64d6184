"""Datasets and training from scored trajectories. Needs the extra `[train]`.

The names below are imported when they are first used, so making a dataset does not load the trainers.
"""

from typing import TYPE_CHECKING

from collab_agents._internal.lazy import names_from

if TYPE_CHECKING:
    from collab_agents.training.config import LoraSection, PolicyConfig, SamplesConfig
    from collab_agents.training.dataset_folder import push_dataset, read_dataset, save_dataset, save_rows
    from collab_agents.training.datasets import (
        preference_rows,
        prompt_row,
        prompt_rows,
        read_all,
        sft_rows,
        split_by_task,
    )
    from collab_agents.training.dpo import train_dpo
    from collab_agents.training.evaluation import HeldOutEvaluation
    from collab_agents.training.export import export_gguf
    from collab_agents.training.grpo import train_grpo
    from collab_agents.training.made import Made
    from collab_agents.training.online_dpo import OnlineDPOTrainer, train_online_dpo
    from collab_agents.training.policy import merge_adapter
    from collab_agents.training.ppo import PPOConfig, PPOTrainer, train_ppo
    from collab_agents.training.prompts import opening_rows
    from collab_agents.training.published import from_published, to_flat, to_nested
    from collab_agents.training.push import push_model
    from collab_agents.training.recorder import record_samples
    from collab_agents.training.reward_model import train_reward_model
    from collab_agents.training.rewards import MultiturnRewardFunction
    from collab_agents.training.samples import Sample, SampledFuture, SampledReply, read_samples
    from collab_agents.training.sft import train_sft
    from collab_agents.training.tree_trainer import TreeGRPOConfig, TreeGRPOTrainer
    from collab_agents.training.value import train_value

_HOMES = {
    "config": (
        "LoraSection",
        "PolicyConfig",
        "SamplesConfig",
    ),
    "dataset_folder": (
        "push_dataset",
        "read_dataset",
        "save_dataset",
        "save_rows",
    ),
    "datasets": (
        "preference_rows",
        "prompt_row",
        "prompt_rows",
        "read_all",
        "sft_rows",
        "split_by_task",
    ),
    "dpo": ("train_dpo",),
    "evaluation": ("HeldOutEvaluation",),
    "export": ("export_gguf",),
    "grpo": ("train_grpo",),
    "made": ("Made",),
    "online_dpo": (
        "OnlineDPOTrainer",
        "train_online_dpo",
    ),
    "policy": ("merge_adapter",),
    "ppo": (
        "PPOConfig",
        "PPOTrainer",
        "train_ppo",
    ),
    "prompts": ("opening_rows",),
    "published": (
        "from_published",
        "to_flat",
        "to_nested",
    ),
    "push": ("push_model",),
    "recorder": ("record_samples",),
    "reward_model": ("train_reward_model",),
    "rewards": ("MultiturnRewardFunction",),
    "samples": (
        "Sample",
        "SampledFuture",
        "SampledReply",
        "read_samples",
    ),
    "sft": ("train_sft",),
    "tree_trainer": (
        "TreeGRPOConfig",
        "TreeGRPOTrainer",
    ),
    "value": ("train_value",),
}
_load = names_from(__name__, _HOMES)

__all__ = [
    "HeldOutEvaluation",
    "LoraSection",
    "Made",
    "MultiturnRewardFunction",
    "OnlineDPOTrainer",
    "PPOConfig",
    "PPOTrainer",
    "PolicyConfig",
    "Sample",
    "SampledFuture",
    "SampledReply",
    "SamplesConfig",
    "TreeGRPOConfig",
    "TreeGRPOTrainer",
    "export_gguf",
    "from_published",
    "merge_adapter",
    "opening_rows",
    "preference_rows",
    "prompt_row",
    "prompt_rows",
    "push_dataset",
    "push_model",
    "read_all",
    "read_dataset",
    "read_samples",
    "record_samples",
    "save_dataset",
    "save_rows",
    "sft_rows",
    "split_by_task",
    "to_flat",
    "to_nested",
    "train_dpo",
    "train_grpo",
    "train_online_dpo",
    "train_ppo",
    "train_reward_model",
    "train_sft",
    "train_value",
]


def __getattr__(name: str) -> object:
    return _load(name)


def __dir__() -> list[str]:
    return __all__
