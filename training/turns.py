"""Turns of an app whose chat model is the model in training, played where TRL would sample replies.

TRL takes the first call of every turn from here, by `rollout_func`. The others follow its batch, see app_trainer.py.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from langchain_core.messages import BaseMessage
from transformers import PreTrainedTokenizerBase, Trainer

from collab_agents._internal.reasons import reason_of
from collab_agents._internal.seeds import derive_seed, seeded
from collab_agents._internal.sync import run_sync
from collab_agents.assistants import Assistant
from collab_agents.errors import ConfigError
from collab_agents.messages import from_dicts
from collab_agents.models.engines.base import Engine
from collab_agents.models.engines.transformers import TransformersEngine
from collab_agents.models.policy import Served, serving
from collab_agents.participants import AssistantContext, Memory, state_of, with_context
from collab_agents.training.answering import answering, base_of
from collab_agents.training.batch_seeds import BatchSeeds
from collab_agents.training.calls import Call, PolicyEngine, recording
from collab_agents.training.policy import clean
from collab_agents.trajectories import Message

logger = logging.getLogger(__name__)

TURN = "turn"
"""The column in which reward functions get the `PlayedTurn` of each completion."""


@dataclass(frozen=True)
class PlayedTurn:
    """A turn of the app."""

    messages: list[BaseMessage]
    """The app's reply: tool calls and results before the final words."""
    memory: Memory = field(repr=False)
    """What the app remembers after it."""
    calls: list[Call] = field(repr=False)
    """The calls of the model in training, in order."""
    error: str | None = None
    """Why the app gave no reply."""


class TrainedApp:
    """An app in whose turns every call of the model in training is known by the turn's seed."""

    def __init__(self, app: Assistant) -> None:
        self._app = app
        self._respond = with_context(app.respond)

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        with seeded(context.seed):
            return await self._respond(messages, memory, context)

    def state_of(self, memory: Memory) -> dict[str, Any]:
        return state_of(self._app, memory)


@dataclass
class AppRollouts:
    """TRL's `rollout_func`: plays a turn of the app for each prompt, on stand-ins of its tools.

    Args:
        app: The app, whose chat model is loaded as "policy".
        batch_size: Calls that are generated together.
        max_concurrency: Turns played at once.

    Attributes:
        last: The turns of the last batch.
    """

    app: TrainedApp
    batch_size: int = 32
    max_concurrency: int = 256
    last: list[PlayedTurn] = field(default_factory=list)
    _engine: PolicyEngine | None = None
    _model: torch.nn.Module | None = None
    _seeds: BatchSeeds = field(default_factory=BatchSeeds)

    def bind(self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        """Let the app call this model."""
        self._model = model
        self._engine = PolicyEngine(TransformersEngine(base_of(model), tokenizer, max_batch_size=self.batch_size))

    def bind_engine(self, engine: Engine) -> None:
        """Let the app call an engine with a copy of the model in training."""
        self._engine = PolicyEngine(engine)

    def __call__(self, prompts: Sequence[list[Message]], trainer: Trainer) -> dict[str, list[Any]]:
        """Return the first call of each turn, in TRL's form, and the turn.

        Raises:
            ConfigError: If no turn of the batch has a call of the model in training.
        """
        assert self._engine is not None
        if (player := getattr(trainer, "player", None)) is not None:
            player.refresh()
        batch = self._seeds.next(trainer)
        policy = Served(self._engine, trainer.args.temperature, trainer.args.max_completion_length)
        with answering(self._model):
            self.last = _on_the_loop_of(trainer, self._play(prompts, batch, policy))
        failed = [turn.error for turn in self.last if turn.error]
        if not any(turn.calls for turn in self.last):
            why = failed[0] if failed else "load its chat model by load_chat_model('policy')"
            raise ConfigError(f"no turn of the app called the model in training: {why}")
        if failed:
            logger.warning("%d of %d turns of the app failed, the first: %s", len(failed), len(self.last), failed[0])
        # A turn without calls only takes a place.
        empty = Call([trainer.processing_class.eos_token_id], [trainer.processing_class.eos_token_id], [0.0])
        firsts = [turn.calls[0] if turn.calls else empty for turn in self.last]
        return {
            "prompt_ids": [call.prompt for call in firsts],
            "completion_ids": [call.completion for call in firsts],
            "logprobs": [call.logprobs for call in firsts],
            "env_mask": [
                [int(bool(turn.calls))] * len(call.completion) for turn, call in zip(self.last, firsts, strict=True)
            ],
            TURN: self.last,
        }

    async def _play(self, prompts: Sequence[list[Message]], batch: int, policy: Served) -> list[PlayedTurn]:
        free = asyncio.Semaphore(self.max_concurrency)

        async def play(prompt: list[Message], seed: int) -> PlayedTurn:
            async with free:
                context = AssistantContext(seed=seed, executable=False)
                with recording() as heard:
                    try:
                        reply, memory = await self.app.respond(from_dicts(clean(prompt)), {}, context)
                    except Exception as error:
                        return PlayedTurn([], {}, list(heard.get(seed, ())), reason_of(error))
                return PlayedTurn(reply, memory, list(heard.get(seed, ())))

        with serving(policy):
            turns = (play(prompt, derive_seed(batch, index)) for index, prompt in enumerate(prompts))
            return await asyncio.gather(*turns)


def _on_the_loop_of(trainer: Trainer, playing: Coroutine[Any, Any, list[PlayedTurn]]) -> list[PlayedTurn]:
    """Play on the event loop on which TRL calls async reward functions: connections of the app's clients belong to one.

    There is none if no reward function is async.
    """
    loop: asyncio.AbstractEventLoop | None = getattr(trainer, "async_loop", None)
    return run_sync(playing) if loop is None else asyncio.run_coroutine_threadsafe(playing, loop).result()


def check_prompts(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise ConfigError for a prompt with a system message, which no app takes."""
    for row in rows:
        if any(message["role"] == "system" for message in row["prompt"]):
            raise ConfigError(
                "data.system_prompt: an app has prompts of its own, and is given what the user said: leave it out, and "
                "choose prompts without system messages"
            )
