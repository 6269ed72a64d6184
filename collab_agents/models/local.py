"""Transformers in this process, through langchain-huggingface, with concurrent calls generated in one batch."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy
import torch
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
from pydantic import PrivateAttr
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextGenerationPipeline,
)

from collab_agents.errors import ConfigError, ModelError
from collab_agents.messages import is_example, text_of, to_dicts
from collab_agents.models.batching import Entry, MicroBatcher
from collab_agents.models.chat_template import chat_tokens
from collab_agents.models.limits import LimitedChatModel, Limits
from collab_agents.models.smollm2 import smollm2

_NUCLEUS = 1024
"""How many of the most probable tokens are searched for a nucleus before all tokens are sorted."""

_WORTH_SHARING = 512
"""The shared prompt is read separately if that saves a batch at least this many tokens."""

_UNLIMITED = Limits(max_concurrent_calls=4096, timeout=None, max_retries=0)


@dataclass(frozen=True)
class Job:
    """One prompt and how to continue it."""

    prompt: list[int]
    max_tokens: int
    temperature: float
    """0 is greedy."""
    top_p: float
    seed: int
    """Decides the sample."""
    stop: tuple[str, ...]
    shared: int = 0
    """How many of the prompt's first tokens other prompts are likely to share."""
    listen: Callable[[str], None] | None = None
    """Called on the batch's thread after every token, with the settled beginning of the completion."""


@dataclass(frozen=True)
class Completion:
    text: str
    tokens: int
    finish_reason: str


class Engine:
    """A causal language model and its tokenizer, which generate for several callers at once."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_batch_size: int = 32) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.context = int(getattr(model.config, "max_position_embeddings", 0) or 1 << 30)
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self._batcher: MicroBatcher[Job, Completion] = MicroBatcher(
            self._generate, max_batch=max_batch_size, max_wait=0.02
        )

    async def complete(self, job: Job) -> Completion:
        entry = self._batcher.submit(job)
        try:
            return await asyncio.wrap_future(entry.result)
        except asyncio.CancelledError:
            entry.abandoned = True
            raise

    def _generate(self, entries: list[Entry[Job, Completion]]) -> list[Completion]:
        jobs = [entry.job for entry in entries]
        with torch.inference_mode():
            cache, ids, mask = self._read_shared(jobs)
            rest = [job.prompt[job.shared :] if cache is not None else job.prompt for job in jobs]
            own_ids, own_mask = self._left_padded(rest)
            ids, mask = torch.cat([ids, own_ids], 1), torch.cat([mask, own_mask], 1)
            width = ids.shape[1]
            out = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                max_new_tokens=max(job.max_tokens for job in jobs),
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self._pad,
                logits_processor=LogitsProcessorList([SeededSampler(jobs, self.model.device)]),
                stopping_criteria=StoppingCriteriaList([RowDone(entries, width, self.tokenizer)]),
            )
        return [self._completion(job, row) for job, row in zip(jobs, out[:, width:].tolist(), strict=True)]

    def _read_shared(self, jobs: Sequence[Job]) -> tuple[DynamicCache | None, torch.Tensor, torch.Tensor]:
        """Read the shared beginning of several prompts once. Return the cache, its tokens and its mask for each row.

        If that saves little, return no cache; the prompts are then read whole.
        """
        beginnings = list(dict.fromkeys(tuple(job.prompt[: job.shared]) for job in jobs))
        saved = sum(job.shared for job in jobs) - sum(len(one) for one in beginnings)
        empty = torch.zeros((len(jobs), 0), dtype=torch.long, device=self.model.device)
        if saved < _WORTH_SHARING or not all(beginnings) or any(len(job.prompt) == job.shared for job in jobs):
            return None, empty, empty
        ids, mask = self._left_padded(beginnings)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        read = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
        ).past_key_values
        if not isinstance(read, DynamicCache) or (read.is_sliding and any(read.is_sliding)):
            return None, empty, empty
        place = {one: i for i, one in enumerate(beginnings)}
        rows = torch.tensor([place[tuple(job.prompt[: job.shared])] for job in jobs], device=ids.device)
        read.reorder_cache(rows)
        return read, ids[rows], mask[rows]

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[self._pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return ids.to(self.model.device), mask.to(self.model.device)

    def _completion(self, job: Job, row: list[int]) -> Completion:
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends]) | {self.tokenizer.eos_token_id}
        row = row[: job.max_tokens]
        length = next((i for i, token in enumerate(row) if token in ends), None)
        reason = "length" if length is None else "stop"
        row = row[:length]
        text = self.tokenizer.decode(row, skip_special_tokens=True)
        for stop in job.stop:
            if stop in text:
                text, reason = text.partition(stop)[0], "stop"
        return Completion(text.strip(), len(row), reason)


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

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        greedy = scores.argmax(-1, keepdim=True)
        probabilities = torch.softmax(scores.float() / self._temperature.clamp(min=1e-4), dim=-1)
        if self._nucleus:
            probabilities = _nucleus(probabilities, self._top_p)
        arrivals = torch.empty_like(probabilities)
        for row, stream in zip(arrivals, self._streams, strict=True):
            if self._on_cpu:
                stream.standard_exponential(dtype=numpy.float32, out=row.numpy())
            else:
                row.exponential_(generator=stream)
        sampled = (probabilities / arrivals).argmax(-1, keepdim=True)
        chosen = torch.where(self._temperature > 0, sampled, greedy)
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

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        made = input_ids.shape[1] - self._width
        for row, entry in enumerate(self._entries):
            if entry.job.listen and not entry.abandoned:
                text = self._tokenizer.decode(input_ids[row, self._width :], skip_special_tokens=True)
                entry.job.listen(_settled(text, entry.job.stop))
        done = [
            entry.abandoned
            or made >= entry.job.max_tokens
            or bool(entry.job.stop and self._stopped(entry.job.stop, input_ids[row, self._width :]))
            for row, entry in enumerate(self._entries)
        ]
        return torch.tensor(done, device=input_ids.device)

    def _stopped(self, stops: tuple[str, ...], tokens: torch.Tensor) -> bool:
        text = self._tokenizer.decode(tokens)
        return any(stop in text for stop in stops)


def _settled(text: str, stops: Sequence[str]) -> str:
    """Return the part of an unfinished text that later tokens cannot change.

    It leaves out an incomplete character, a possible beginning of a stop text, and trailing space.
    """
    held = max((len(stop) - 1 for stop in stops), default=0)
    text = text[: len(text) - held]
    for stop in stops:
        text = text.partition(stop)[0]
    return text.rstrip("\ufffd").strip()


class LocalChatModel(LimitedChatModel, ChatHuggingFace):
    """A `ChatHuggingFace` with a pipeline in this process; concurrent calls are generated in one batch.

    `temperature` defaults to the model's generation config or 1.0 (0 is greedy), `max_tokens` to 256. A call's `seed`
    decides its sample, whatever else is in its batch (up to rounding, which depends on the batch's shape).
    """

    _engine: Engine = PrivateAttr()

    @classmethod
    def over(cls, engine: Engine, *, name: str, **options: Any) -> "LocalChatModel":
        """Create a chat model for a loaded engine, which models with different options may share."""
        pipeline = TextGenerationPipeline(model=engine.model, tokenizer=engine.tokenizer)
        llm = HuggingFacePipeline(pipeline=pipeline, model_id=name)
        chat = cls(llm=llm, tokenizer=engine.tokenizer, model_id=name, **options)
        chat._engine = engine
        return chat

    async def _request(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        **kwargs: Any,
    ) -> ChatResult:
        job = self._job(messages, stop, kwargs)
        completion = await self._engine.complete(job)
        usage = UsageMetadata(
            input_tokens=len(job.prompt),
            output_tokens=completion.tokens,
            total_tokens=len(job.prompt) + completion.tokens,
        )
        message = AIMessage(completion.text, usage_metadata=usage)
        return ChatResult(
            generations=[ChatGeneration(message=message, generation_info={"finish_reason": completion.finish_reason})]
        )

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[str | None] = asyncio.Queue()

        def listen(text: str) -> None:
            with suppress(RuntimeError):  # The loop has ended.
                loop.call_soon_threadsafe(heard.put_nowait, text)

        call = asyncio.create_task(self._agenerate(messages, stop, run_manager, listen=listen, **kwargs))
        call.add_done_callback(lambda _: heard.put_nowait(None))
        told = ""
        try:
            while (text := await heard.get()) is not None:
                if more := text[len(told) :]:
                    told += more
                    yield ChatGenerationChunk(message=AIMessageChunk(content=more))
            reply = (await call).generations[0].message
        finally:
            call.cancel()
        assert isinstance(reply, AIMessage)
        rest = AIMessageChunk(content=text_of(reply)[len(told) :], usage_metadata=reply.usage_metadata)
        yield ChatGenerationChunk(message=rest)

    def _job(self, messages: list[BaseMessage], stop: list[str] | None, call: dict[str, Any]) -> Job:
        ids = chat_tokens(self.tokenizer, to_dicts(messages), tools=call.get("tools"), add_generation_prompt=True)
        max_tokens = call.get("max_tokens") or self.max_tokens or 256
        if len(ids) + max_tokens > self._engine.context:
            raise ModelError(
                f"a prompt of {len(ids)} tokens and {max_tokens} new ones exceed the model's context of "
                f"{self._engine.context} tokens"
            )
        temperature = call.get("temperature", self.temperature)
        if temperature is None:
            temperature = getattr(self._engine.model.generation_config, "temperature", None) or 1.0
        seed = call.get("seed", self.seed)
        own = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Job(
            prompt=ids,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=call.get("top_p", self.top_p) or 1.0,
            seed=random.getrandbits(31) if seed is None else seed,
            stop=tuple(stop or own),
            shared=self._shared(messages, ids, call.get("tools")),
            listen=call.get("listen"),
        )

    def _shared(self, messages: list[BaseMessage], ids: list[int], tools: object) -> int:
        """Return how many of the prompt's tokens are the system message and the examples, which others share."""
        said = next((at for at, one in enumerate(messages) if one.type != "system" and not is_example(one)), 0)
        if not said:
            return 0
        try:
            own = chat_tokens(self.tokenizer, to_dicts(messages[:said]), tools=tools)
        except Exception:  # Some templates refuse a conversation without a user.
            return 0
        return len(own) if ids[: len(own)] == own else 0


def load_local(
    name: str,
    *,
    limits: Limits | None = None,
    label: str = "",
    max_batch_size: int = 32,
    dtype: str | None = None,
    device: str | None = None,
    **options: Any,
) -> LocalChatModel:
    """Load a chat model from a folder or the Hub; weights are loaded once per process.

    Args:
        name: A folder, a repository, or "smollm2" for the embedded model.
        limits: Only limits that were set explicitly apply.
        label: The model's name in errors.
        max_batch_size: The most calls in a batch.
        dtype: The name of a torch type; by default bfloat16 if the processor supports it, else float32.
        device: By default "cuda" if there is one, else "cpu".
        **options: Fields of `LocalChatModel`.
    """
    engine = _engine(smollm2() if name == "smollm2" else name, *placement(dtype, device), max_batch_size)
    return LocalChatModel.over(engine, name=name, limits=_local_limits(limits), label=label or name, **options)


def placement(dtype: str | None, device: str | None) -> tuple[str, str]:
    """Return the torch type and the device, chosen or the best available. Raises ConfigError for a wrong type."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype is None:
        fast = device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        dtype = "bfloat16" if fast else "float32"
    if not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ConfigError(f"dtype {dtype!r} is not a torch type: use bfloat16, float16 or float32")
    return dtype, device


def check_folder(source: str, label: str) -> str:
    """Return the source with "~" expanded. Raises ConfigError for a path that is not a model's folder."""
    if source.startswith((".", "/", "~")):
        source = str(Path(source).expanduser())
        if not Path(source, "config.json").is_file():
            raise ConfigError(f"{label}: the folder has no config.json of a transformers model")
    return source


@contextmanager
def loading(label: str) -> Iterator[None]:
    """Turn the errors of loading a model into a ConfigError of one sentence."""
    try:
        yield
    except UnpicklingError as error:
        raise ConfigError(
            f"{label} cannot be loaded from a folder or the Hub: its weights are a pickle with code in it; "
            "use safetensors"
        ) from error
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{label} cannot be loaded from a folder or the Hub: {reason}") from error


def _local_limits(limits: Limits | None) -> Limits:
    # A call may wait long for its batch, so only explicitly chosen limits apply.
    chosen = {name: getattr(limits, name) for name in limits.model_fields_set} if limits else {}
    return _UNLIMITED.model_copy(update=chosen)


@lru_cache(maxsize=4)
def _engine(source: str, dtype: str, device: str, max_batch_size: int) -> Engine:
    source = check_folder(source, f"model 'local:{source}'")
    with loading(f"model 'local:{source}'"):
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", trust_remote_code=False)
        model = (
            AutoModelForCausalLM.from_pretrained(
                source, dtype=getattr(torch, dtype), trust_remote_code=False, weights_only=True
            )
            .to(device)
            .eval()
        )
    if not tokenizer.chat_template:
        raise ConfigError(f"model 'local:{source}' has no chat template: choose an instruction-tuned model")
    return Engine(model, tokenizer, max_batch_size=max_batch_size)
