"""The training methods. What a method needs is imported when it is used."""

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

from collab_agents._internal.importing import attribute_at

if TYPE_CHECKING:
    from transformers import TrainingArguments


class Method(StrEnum):
    sft = "sft"
    dpo = "dpo"
    online_dpo = "online-dpo"
    ppo = "ppo"
    grpo = "grpo"

    @property
    def summary(self) -> str:
        """What it does, in a line."""
        return _SUMMARIES[self]

    @property
    def online(self) -> bool:
        """Whether it trains on the reward itself instead of on existing trajectories."""
        return self not in (Method.sft, Method.dpo)

    @property
    def arguments(self) -> "type[TrainingArguments]":
        """The class of the trainer's arguments."""
        return attribute_at(_ARGUMENTS[self], f"train {self}")

    @property
    def train(self) -> Callable[..., dict[str, float]]:
        """The function that trains, such as `train_sft`."""
        name = self.name
        return attribute_at(f"collab_agents.training.{name}:train_{name}", f"train {self}")


_SUMMARIES = {
    Method.sft: "Imitate the conversations that went well.",
    Method.dpo: "Prefer the replies whose futures went better.",
    Method.online_dpo: "Prefer the better of two new replies, by their multiturn-aware rewards.",
    Method.ppo: "Raise the multiturn-aware reward by PPO.",
    Method.grpo: "Raise the multiturn-aware reward by GRPO.",
}
_ARGUMENTS = {
    Method.sft: "trl:SFTConfig",
    Method.dpo: "trl:DPOConfig",
    Method.online_dpo: "collab_agents.training.online_dpo:OnlineDPOConfig",
    Method.ppo: "collab_agents.training.ppo:PPOConfig",
    Method.grpo: "collab_agents.training.tree_trainer:TreeGRPOConfig",
}
