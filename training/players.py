"""The engine that plays for a trainer beside its model, if it has one."""

from collections.abc import Sequence
from typing import Any

from transformers import Trainer

from collab_agents.training.openvino import TrainerOpenVINO
from collab_agents.training.rewards import MultiturnRewardFunction
from collab_agents.training.vllm import TrainerVLLM

_BATCH_SIZE = 32
"""Of OpenVINO, without a reward that says it."""


def player_of(trainer: Trainer, rewards: Sequence[object]) -> TrainerVLLM | TrainerOpenVINO | None:
    """Let a trainer's engine play the futures that the model in training is to play, and return it.

    With `use_openvino` it is OpenVINO, with `use_vllm` it is vLLM if there are such futures. Otherwise there is none.
    """
    args: Any = trainer.args
    played = [one for one in rewards if isinstance(one, MultiturnRewardFunction) and one.needs_policy]
    player: TrainerVLLM | TrainerOpenVINO
    if args.use_openvino:
        player = TrainerOpenVINO(trainer, max((one.batch_size for one in played), default=_BATCH_SIZE))
    elif args.use_vllm and played:
        player = TrainerVLLM(trainer, min(one.max_staleness for one in played))
    else:
        return None
    for one in played:
        one.bind_engine(player.engine, player.version)
    return player
