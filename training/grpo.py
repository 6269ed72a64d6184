"""GRPO on the multiturn-aware reward."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from trl import GRPOConfig, GRPOTrainer

from collab_agents.training.config import PolicyConfig
from collab_agents.training.online import train_online


def train_grpo(
    model: PolicyConfig,
    data: DatasetDict,
    reward: Any | Sequence[Any],
    out: str | Path,
    *,
    trainer: Mapping[str, Any] | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Train with TRL's GRPOTrainer on `prompt` and whatever columns the reward reads.

    reward: a `MultiturnRewardFunction`, or any reward function of TRL's, or several. Prompts that leave no room for
    `max_completion_length` in the model's context are left out and counted. Else as `train_sft`.
    """
    return train_online(
        "grpo", GRPOTrainer, GRPOConfig, model, data, reward, out, trainer=trainer, resume=resume, settings=settings
    )
