"""vLLM's engine in this process."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from .model import Model, Sampled

__version__ = "0.31.0"

calls: list["Call"] = []
"""What was sampled in this process, in order."""


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 16
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    logprobs: int | None = None
    detokenize: bool = True


@dataclass
class Call:
    """A completion, and how often the engine had got weights when it made it."""

    prompt: list[int]
    sampled: Sampled
    seed: int | None
    loads: int


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    outputs: list[Any]


class LLM:
    """Plays one prompt after the other. Asleep, it has no weights, and refuses to play."""

    def __init__(self, model: str, *, max_model_len: int | None = None, seed: int = 0, **options: Any) -> None:
        self._model = Model(model)
        self._chance = random.Random(seed)
        self._awake = {"weights", "kv_cache"}
        self.loads = 0
        config = SimpleNamespace(max_model_len=max_model_len or self._model.context)
        worker = SimpleNamespace(model_runner=SimpleNamespace(model=self))
        executor = SimpleNamespace(driver_worker=worker)
        self.llm_engine = SimpleNamespace(model_config=config, model_executor=executor)

    def load_weights(self, weights: Sequence[tuple[str, torch.Tensor]]) -> None:
        assert "weights" in self._awake, "the weights are asleep"
        for name, values in weights:
            self._model.load(name, values)

    def generate(
        self, prompts: Sequence[Any], sampling_params: SamplingParams | list[SamplingParams], use_tqdm: bool = True
    ) -> list[RequestOutput]:
        assert self._awake == {"weights", "kv_cache"}, f"only {self._awake} is awake"
        each = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        return [self._one(prompt, params) for prompt, params in zip(prompts, each, strict=True)]

    def reset_prefix_cache(self) -> None:
        self.loads += 1  # TRL does it after it gave the weights.

    def sleep(self, level: int = 1) -> None:
        assert level == 2
        self._awake = set()
        self._model.forget()

    def wake_up(self, tags: list[str]) -> None:
        self._awake |= set(tags)

    def _one(self, prompt: Any, params: SamplingParams) -> RequestOutput:
        ids = self._model.encode(prompt) if isinstance(prompt, str) else list(prompt["prompt_token_ids"])
        outputs = []
        for _ in range(params.n):
            seed = self._chance.getrandbits(31) if params.seed is None else params.seed
            made = self._model.sample(ids, params.max_tokens, params.temperature, seed, params.stop)
            calls.append(Call(ids, made, params.seed, self.loads))
            logprobs = [
                {i: SimpleNamespace(logprob=one, rank=1)} for i, one in zip(made.ids, made.logprobs, strict=True)
            ]
            outputs.append(
                SimpleNamespace(
                    text=made.text,
                    token_ids=made.ids,
                    logprobs=logprobs if params.logprobs is not None else None,
                    finish_reason=made.finish_reason,
                    stop_reason=made.stop_reason,
                )
            )
        return RequestOutput(ids, outputs)
