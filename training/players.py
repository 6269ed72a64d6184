"""The engine that plays for a trainer beside its model, if it has one."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from transformers import Trainer

from collab_agents.models.engines.base import Engine
from collab_agents.training.rewards import MultiturnRewardFunction
from collab_agents.training.vllm import TrainerVLLM

_BATCH_SIZE = 32
"""Of OpenVINO, without a reward that says it."""


class Player(Protocol):
    """An engine with the weights of a trainer's model."""

    engine: Engine
    served: bool
    """Whether it generates elsewhere while this process computes."""
    samples: bool
    """Whether replies are to be sampled by it here, because TRL does not know it."""

    def version(self) -> int:
        """Return the optimizer step whose weights it has; -1 before it got any."""
        ...

    def refresh(self) -> None:
        """Give it the trainer's weights if its own are too old. Every process has to call this."""
        ...

    def ready(self) -> AbstractContextManager[None]:
        """Keep it ready to play, with weights that are recent enough. Every process has to enter this."""
        ...


def player_of(trainer: Trainer, rewards: Sequence[object]) -> Player | None:
    """Let a trainer's engine play the futures that the model in training is to play, and return it.

    With `use_openvino` it is OpenVINO, with `use_vllm` it is vLLM if there are such futures. Otherwise there is none.
    """
    args: Any = trainer.args
    played = [one for one in rewards if isinstance(one, MultiturnRewardFunction) and one.needs_policy]
    player: Player
    if getattr(args, "use_openvino", False):  # TRL's own OnlineDPOConfig has no such option.
        from collab_agents.training.openvino import TrainerOpenVINO  # Loads OpenVINO.

        player = TrainerOpenVINO(trainer, max((one.batch_size for one in played), default=_BATCH_SIZE))
    elif args.use_vllm and played:
        player = TrainerVLLM(trainer, min(one.max_staleness for one in played))
    else:
        return None
    for one in played:
        one.bind_engine(player.engine, player.version)
    return player


def check_openvino(args: Any) -> None:
    """Raise ValueError for options of sampling that are not passed to OpenVINO, and for a wrong size of its cache."""
    needed: Mapping[str, Sequence[object]] = {
        "use_vllm": (False,),
        "top_k": (0, None),
        "min_p": (None, 0),
        "repetition_penalty": (1.0, None),
        "generation_kwargs": (None, {}),
    }
    for name, allowed in needed.items():
        if (value := getattr(args, name)) not in allowed:
            raise ValueError(f"{name} must be {allowed[0]} with use_openvino, got {value!r}")
    if args.openvino_cache_gb < 1:
        raise ValueError(f"openvino_cache_gb must be at least 1, got {args.openvino_cache_gb}")
