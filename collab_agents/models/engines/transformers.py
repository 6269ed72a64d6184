"""Transformers as an engine: concurrent calls are generated in one batch."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from collab_agents.errors import ConfigError
from collab_agents.models.batching import Entry, MicroBatcher
from collab_agents.models.engines.base import Completion, Job, Tokenizes, finished, settled
from collab_agents.models.weights import load_weights, placement

_NUCLEUS = 1024
"""How many of the most probable tokens are searched for a nucleus before all tokens are sorted."""


class TransformersEngine(Tokenizes):
    """An `Engine` over a transformers model, on any device, also while it is being trained.

    A call's seed decides its sample, whatever else is in its batch, up to rounding, which depends on the batch's shape.
    """

    constrains = False

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_batch_size: int = 32) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.context = int(getattr(model.config, "max_position_embeddings", 0) or 1 << 30)
        self.temperature = float(getattr(model.generation_config, "temperature", None) or 1.0)
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self._batcher: MicroBatcher[Job, Completion] = MicroBatcher(
            self._generate, max_batch=max_batch_size, max_wait=0.02
        )

    async def complete(self, job: Job) -> Completion:
        return await self._batcher.submit(job).outcome()

    def _generate(self, entries: list[Entry[Job, Completion]]) -> list[Completion]:
        jobs = [entry.job for entry in entries]
        ids, mask = self._left_padded([job.prompt for job in jobs])
        width = ids.shape[1]
        sampler = SeededSampler(jobs, self.model.device)
        done = RowDone(entries, width, self.tokenizer)
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max(job.max_tokens for job in jobs),
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self._pad,
                logits_processor=LogitsProcessorList([sampler]),
                stopping_criteria=StoppingCriteriaList([done]),
            )
        rows = zip(jobs, out[:, width:].tolist(), sampler.logprobs(), done.lengths, strict=True)
        return [self._completion(job, ids[:length], logprobs) for job, ids, logprobs, length in rows]

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[self._pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return ids.to(self.model.device), mask.to(self.model.device)

    def _completion(self, job: Job, row: list[int], logprobs: list[float]) -> Completion:
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends]) | {self.tokenizer.eos_token_id}
        length = next((i for i, token in enumerate(row) if token in ends), None)
        sampled = row if length is None else row[: length + 1]
        row = row[:length]
        text = self.tokenizer.decode(row, skip_special_tokens=True)
        completion = finished(text, job, len(row), "length" if length is None else "stop")
        return replace(completion, ids=sampled, logprobs=logprobs[: len(sampled)])


class SeededSampler(LogitsProcessor):
    """Samples each row's token with the row's own random stream, and leaves it as the only possible token.

    A row's sample therefore depends on its seed and its logits, not on the other rows of the batch, and rows may
    differ in temperature. The sampled token is the winner of an exponential race (Gumbel-max), which rounding in the
    logits hardly ever changes; a draw from the cumulative distribution would change in the tail.
    """

    def __init__(self, jobs: Sequence[Job], device: torch.device | str = "cpu") -> None:
        self._on_cpu = torch.device(device).type == "cpu"
        self._streams: list[numpy.random.Generator | torch.Generator] = [
            # On a CPU, numpy's exponentials take a tenth of the time of torch's.
            numpy.random.Generator(numpy.random.SFC64(job.seed))
            if self._on_cpu
            else torch.Generator(device).manual_seed(job.seed)
            for job in jobs
        ]
        self._temperature = torch.tensor([[job.temperature] for job in jobs], device=device)
        self._top_p = torch.tensor([[job.top_p] for job in jobs], device=device)
        self._nucleus = any(job.top_p < 1 for job in jobs)
        self._chances: list[torch.Tensor] = []

    def logprobs(self) -> list[list[float]]:
        """Return the log-probability of every token of each row, at the row's temperature."""
        rows: list[list[float]] = torch.cat(self._chances, dim=1).log().tolist()
        return rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        greedy = scores.argmax(-1, keepdim=True)
        whole = probabilities = torch.softmax(scores.float() / self._temperature.clamp(min=1e-4), dim=-1)
        if self._nucleus:
            probabilities = _nucleus(whole, self._top_p)
        arrivals = torch.empty_like(probabilities)
        for row, stream in zip(arrivals, self._streams, strict=True):
            if self._on_cpu:
                stream.standard_exponential(dtype=numpy.float32, out=row.numpy())
            else:
                row.exponential_(generator=stream)
        sampled = (probabilities / arrivals).argmax(-1, keepdim=True)
        chosen = torch.where(self._temperature > 0, sampled, greedy)
        self._chances.append(whole.gather(1, chosen))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)


def _nucleus(probabilities: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    # A nucleus is small, and finding the most probable tokens is much faster than sorting all.
    ordered, order = probabilities.topk(min(_NUCLEUS, probabilities.shape[-1]), dim=-1)
    if (ordered.sum(-1, keepdim=True) < top_p).any():
        ordered, order = probabilities.sort(dim=-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0
    return torch.zeros_like(probabilities).scatter_(1, order, ordered)


class RowDone(StoppingCriteria):
    """Ends a row that has all its tokens or a stop text, or whose result is no longer needed."""

    def __init__(
        self, entries: Sequence[Entry[Job, Completion]], width: int, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self._entries = entries
        self._width = width
        self._tokenizer = tokenizer
        self.lengths = [entry.job.max_tokens for entry in entries]
        """How many tokens of each row count: what follows its end is padding."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        made = input_ids.shape[1] - self._width
        for row, entry in enumerate(self._entries):
            if entry.job.listen and not entry.abandoned:
                text = self._tokenizer.decode(input_ids[row, self._width :], skip_special_tokens=True)
                entry.job.listen(settled(text, entry.job.stop))
        done = [
            entry.abandoned
            or made >= entry.job.max_tokens
            or bool(entry.job.stop and self._stopped(entry.job.stop, input_ids[row, self._width :]))
            for row, entry in enumerate(self._entries)
        ]
        self.lengths = [min(length, made) if end else length for length, end in zip(self.lengths, done, strict=True)]
        return torch.tensor(done, device=input_ids.device)

    def _stopped(self, stops: tuple[str, ...], tokens: torch.Tensor) -> bool:
        text = self._tokenizer.decode(tokens)
        return any(stop in text for stop in stops)


@lru_cache(maxsize=4)
def load_transformers(source: str, dtype: str | None, device: str | None, max_batch_size: int) -> TransformersEngine:
    """Load a folder or a repository of the Hub, once per process. Raises ConfigError if it cannot be loaded."""
    label = f"model 'local:{source}'"
    chosen, place = placement(dtype, device)
    model, tokenizer = load_weights(source, label, chosen)
    model.to(place)
    if not tokenizer.chat_template:
        raise ConfigError(f"{label} has no chat template: choose an instruction-tuned model")
    return TransformersEngine(model, tokenizer, max_batch_size=max_batch_size)
