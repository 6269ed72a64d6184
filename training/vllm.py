"""The vLLM that a TRL trainer samples with plays the futures too, with the same weights.

What is private in TRL (1.16) and used here, because nothing public tells or does it:

- `_last_loaded_step` of a trainer is the step whose weights vLLM has.
- `OnlineDPOTrainer._move_model_to_vllm` gives it the weights. (`VLLMGeneration.sync_weights` is public.)
- `VLLMGeneration._llm_weights_sleeping` says that an engine lost its weights when it was put to sleep.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.distributed.fsdp import FSDPModule
from transformers import Trainer

from collab_agents.errors import ConfigError
from collab_agents.models.engines.base import Engine
from collab_agents.training.vllm_engines import InProcessEngine, ServedEngine


class TrainerVLLM:
    """The vLLM of a trainer with `use_vllm`: its server, or its engine in this process.

    Args:
        trainer: A GRPO, PPO or online DPO trainer.
        max_staleness: The most optimizer steps by which its weights may be behind the trainer's when it plays.

    Attributes:
        engine: The engine, for the futures.
        served: Whether it is a server, so that it generates while this process computes.

    Raises:
        ConfigError: If several processes share an engine in theirs, or the server does not answer.
    """

    samples = False

    def __init__(self, trainer: Trainer, max_staleness: int) -> None:
        self._trainer: Any = trainer
        self._max_staleness = max_staleness
        args: Any = trainer.args
        self.served = args.vllm_mode == "server"
        self._generation = getattr(trainer, "vllm_generation", None)  # Online DPO has none.
        self._llm: Any = None
        self._own: InProcessEngine | None = None
        self.engine: Engine
        if self.served:
            url = args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}"
            self.engine = ServedEngine(url.rstrip("/"), trainer.processing_class)
            return
        if args.vllm_tensor_parallel_size > 1:
            raise ConfigError(
                "trainer.vllm_tensor_parallel_size must be 1 where the model in training plays the futures, got "
                f"{args.vllm_tensor_parallel_size}: processes that share an engine would have to call it together; "
                "or choose trainer.vllm_mode: server, whose server may be tensor parallel"
            )
        self._llm = self._generation.llm if self._generation is not None else self._trainer.llm
        self._own = InProcessEngine(self._llm, trainer.processing_class, trainer.accelerator.device)
        self.engine = self._own

    def version(self) -> int:
        """Return the optimizer step whose weights it has; -1 before the trainer gave it any."""
        step: int = self._trainer._last_loaded_step
        return step

    def refresh(self) -> None:
        """Give it the trainer's weights if its own are too old. Every process has to call this."""
        version = self.version()
        if version < 0 or self._trainer.state.global_step - version > self._max_staleness:
            self._sync()

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Keep it awake, with weights that are recent enough. Every process has to enter this, on its main thread."""
        sleeps = self._own is not None and self._trainer.args.vllm_enable_sleep_mode
        if sleeps:
            self._sync()  # TRL puts it to sleep after sampling, and its weights are lost.
            self._llm.wake_up(tags=["kv_cache"])
        else:
            self.refresh()
        try:
            yield
        finally:
            if self._own is not None:
                self._own.settle()
            if sleeps:
                self._llm.sleep(level=2)
                if self._generation is not None:
                    self._generation._llm_weights_sleeping = True

    def _sync(self) -> None:
        for module in self._trainer.model.modules():
            if isinstance(module, FSDPModule):  # A forward pass leaves some of its parameters whole.
                module.reshard()
        if self._generation is not None:
            self._generation.sync_weights()
        else:
            if self._trainer.args.vllm_enable_sleep_mode:
                self._llm.wake_up(tags=["weights"])
            self._trainer._move_model_to_vllm()
        self._trainer._last_loaded_step = self._trainer.state.global_step
