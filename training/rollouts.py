"""Replies that an engine samples where TRL would call the model's `generate`."""

import asyncio
from collections.abc import Sequence
from typing import Any

from transformers import Trainer

from collab_agents._internal.seeds import derive_seed
from collab_agents._internal.sync import run_sync
from collab_agents.models.engines.base import Completion, Job
from collab_agents.training.batch_seeds import BatchSeeds
from collab_agents.training.players import Player
from collab_agents.training.policy import clean
from collab_agents.trajectories import Message


class Rollouts:
    """Samples a reply to each prompt, and is a `rollout_func` of TRL's."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._seeds = BatchSeeds()

    def __call__(self, prompts: Sequence[list[Message]], trainer: Trainer) -> dict[str, Any]:
        """Return the tokens of the prompts and the replies, in TRL's form."""
        encoded, completions = self.sample(prompts, trainer, trainer.args.max_completion_length)
        # TRL computes the log-probabilities that it needs: those of OpenVINO are before the temperature.
        return {"prompt_ids": encoded, "completion_ids": [one.ids for one in completions], "logprobs": None}

    def sample(
        self, prompts: Sequence[list[Message]], trainer: Trainer, max_tokens: int
    ) -> tuple[list[list[int]], list[Completion]]:
        """Return the tokens of each prompt, and a reply to it."""
        args: Any = trainer.args
        self._player.refresh()
        engine, batch = self._player.engine, self._seeds.next(trainer)
        encoded = [engine.encode(clean(prompt)) for prompt in prompts]
        jobs = [
            Job(prompt, max_tokens, args.temperature, args.top_p, derive_seed(batch, index))
            for index, prompt in enumerate(encoded)
        ]

        async def complete() -> list[Completion]:
            return await asyncio.gather(*map(engine.complete, jobs))

        return encoded, run_sync(complete())
