"""The model in training, as one that answers in between."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import PreTrainedModel, Trainer

from collab_agents.errors import ConfigError


def base_of(model: torch.nn.Module) -> PreTrainedModel:
    """Return the model that generates. PEFT puts an adapter into its layers, so it generates with the adapter."""
    base: PreTrainedModel = getattr(model, "get_base_model", lambda: model)()
    return base


@contextmanager
def answering(model: torch.nn.Module | None) -> Iterator[None]:
    """Put the model in eval mode while it answers; the trainer waits meanwhile."""
    if model is None:
        yield
        return
    trained = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(trained)


def check_whole(trainer: Trainer, field: str, what: str, instead: str) -> None:
    """Raise ConfigError if no process has the whole model, so that none can answer."""
    stage = getattr(getattr(trainer.accelerator.state, "deepspeed_plugin", None), "zero_stage", 0)
    if trainer.is_fsdp_enabled or stage == 3:
        raise ConfigError(
            f"{field}: a model that is spread over processes (FSDP, DeepSpeed ZeRO-3) cannot play {what} in this "
            f"process: {instead}"
        )


@contextmanager
def same_randomness() -> Iterator[None]:
    """Leave the random states as they were, so that the training is the same as without what is done inside."""
    python, numbers = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices, device_type="cuda"):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)
