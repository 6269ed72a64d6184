"""OpenVINO samples for a trainer on a processor, and plays the futures, with the weights of the model in training.

A pipeline of OpenVINO has constant weights. Building one takes about a second for a small model, so after an optimizer
step the weights are written into the model's file, and a pipeline is built from it.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedTokenizerBase, Trainer

from collab_agents.errors import ConfigError
from collab_agents.models.engines.base import CannotRun, Completion, Engine, Job, Tokenizes
from collab_agents.models.engines.converted import openvino_folder
from collab_agents.models.engines.exact import MODEL
from collab_agents.models.engines.openvino import OpenVINOEngine
from collab_agents.training.answering import base_of, check_whole
from collab_agents.training.weights_file import WeightsFile


class RenewedEngine(Tokenizes):
    """An `Engine` over OpenVINO, whose pipeline is built anew when the weights in its folder have changed.

    Args:
        folder: The converted model.
        tokenizer: The tokenizer of the model in training, for its chat template.
        max_batch_size: The most calls that are generated at once.
        cache_gb: Gigabytes for the keys and values of prompts and completions.
    """

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerBase, *, max_batch_size: int, cache_gb: int) -> None:
        self.tokenizer = tokenizer
        self._folder = folder
        self._options = {"max_batch_size": max_batch_size, "cache_gb": cache_gb}
        self._engine: OpenVINOEngine | None = self._built()
        self.context = self._engine.context
        self.temperature = self._engine.temperature
        self.constrains = self._engine.constrains

    def _built(self) -> OpenVINOEngine:
        return OpenVINOEngine(self._folder, reproducible=False, **self._options)

    def close(self) -> None:
        """Let go of the pipeline, and of the files. Calls that are in progress fail."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    async def complete(self, job: Job) -> Completion:
        if self._engine is None:
            self._engine = self._built()
        return await self._engine.complete(job)


class TrainerOpenVINO:
    """OpenVINO with the weights of a trainer's model.

    Args:
        trainer: A GRPO, PPO or online DPO trainer with `use_openvino`.
        max_batch_size: The most calls that are generated at once.

    Attributes:
        engine: The engine, for replies and futures.

    Raises:
        ConfigError: If OpenVINO cannot run the model, or no process has all of it.
    """

    served = False
    samples = True

    def __init__(self, trainer: Trainer, max_batch_size: int) -> None:
        self._trainer: Any = trainer
        self._version = 0  # The weights that were converted. An adapter adds nothing to them at first.
        if (device := trainer.accelerator.device.type) != "cpu":
            raise ConfigError(
                f"trainer.use_openvino is for training on a CPU, and this trains on {device}: leave it out"
            )
        check_whole(trainer, "trainer.use_openvino", "anything", "leave it out")
        model = trainer.accelerator.unwrap_model(trainer.model)
        source = base_of(model).name_or_path
        try:
            converted = openvino_folder(source, f"model.name {source!r}", reproducible=False)
        except CannotRun as error:
            raise ConfigError(f"trainer.use_openvino: OpenVINO cannot run model.name {source!r}: {error}") from error
        self._folder = TemporaryDirectory(prefix="collab-agents-weights-")
        folder = Path(self._folder.name)
        for file in converted.iterdir():
            if file.stem == Path(MODEL).stem:
                shutil.copy(file, folder)
            else:
                (folder / file.name).symlink_to(file.resolve())
        self._weights = WeightsFile(folder, model)
        self._engine = RenewedEngine(
            folder,
            self._trainer.processing_class,
            max_batch_size=max_batch_size,
            cache_gb=self._trainer.args.openvino_cache_gb,
        )
        self.engine: Engine = self._engine

    def version(self) -> int:
        """Return the optimizer step whose weights it has."""
        return self._version

    def refresh(self) -> None:
        """Give it the trainer's weights if they have changed."""
        step = self._trainer.state.global_step
        if self._version != step:
            self._engine.close()
            self._weights.write()
            self._version = step

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Give it the trainer's weights."""
        self.refresh()
        yield
