"""Seeds of what a trainer samples."""

from dataclasses import dataclass

from transformers import Trainer

from collab_agents._internal.seeds import derive_seed


@dataclass
class BatchSeeds:
    """A seed for every batch that a process generates."""

    _step: int = -1
    _batches: int = 0

    def next(self, trainer: Trainer) -> int:
        """Return the seed of the next batch, which the step and the process decide."""
        step = trainer.state.global_step
        self._batches = self._batches + 1 if self._step == step else 0
        self._step = step
        return derive_seed(trainer.args.seed, "turns", step, self._batches, trainer.accelerator.process_index)
