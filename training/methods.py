"""The training methods. What each of them needs is imported when it is used."""

from enum import StrEnum
from importlib import import_module
from typing import Any


class Method(StrEnum):
    sft = "sft"
    dpo = "dpo"
    online_dpo = "online-dpo"
    ppo = "ppo"
    grpo = "grpo"

    @property
    def online(self) -> bool:
        """Whether it trains on the reward itself, and not on trajectories that are there already."""
        return self not in (Method.sft, Method.dpo)

    @property
    def arguments(self) -> type[Any]:
        """The class of its trainer's arguments, as TRL has them."""
        return _at(_ARGUMENTS[self])

    @property
    def train(self) -> Any:
        """The function that trains, such as `train_sft`."""
        name = self.name
        return _at(f"collab_agents.training.{name}:train_{name}")


_ARGUMENTS = {
    Method.sft: "trl:SFTConfig",
    Method.dpo: "trl:DPOConfig",
    Method.online_dpo: "collab_agents.training.online_dpo:OnlineDPOConfig",
    Method.ppo: "collab_agents.training.ppo:PPOConfig",
    Method.grpo: "trl:GRPOConfig",
}


def _at(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
