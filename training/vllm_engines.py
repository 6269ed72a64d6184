"""vLLM as it samples for a trainer, as an engine: a server, or an engine in this process.

Nothing here knows the trainer. Both return the tokens that were sampled, with their log-probabilities.
"""

from collections.abc import AsyncGenerator
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import aiohttp
import torch
from transformers import PreTrainedTokenizerBase

from collab_agents._internal.per_loop import PerLoop
from collab_agents._internal.sync import run_sync
from collab_agents.errors import ConfigError, ModelError
from collab_agents.models.batching import Entry, MicroBatcher
from collab_agents.models.engines.base import Completion, Job, Tokenizes, finished, one_line
from collab_agents.models.limits import MalformedReply

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams

_GREATEST_BATCH = 4096
"""vLLM makes batches of its own, so this only bounds what waits for the same call."""


class ServedEngine(Tokenizes):
    """An `Engine` over the API of `vllm serve`, which batches the calls of all processes.

    Args:
        url: The server's address, such as "http://localhost:8000".
        tokenizer: The tokenizer of the model that it serves.

    Raises:
        ConfigError: If the server does not answer.
    """

    constrains = False
    temperature = 1.0

    def __init__(self, url: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._url = url
        self._sessions = PerLoop(_lend_session)
        try:
            card = run_sync(self._card())
        except (aiohttp.ClientError, TimeoutError, LookupError, TypeError) as error:
            raise ConfigError(f"the vLLM server at {url} does not list its model: {one_line(error)}") from error
        self._model = card["id"]
        self.context = int(card.get("max_model_len") or 1 << 30)

    async def complete(self, job: Job) -> Completion:
        body = {
            "model": self._model,
            "prompt": job.prompt,
            "max_tokens": job.max_tokens,
            "temperature": job.temperature,
            "top_p": job.top_p,
            "seed": job.seed,
            "stop": list(job.stop),
            "logprobs": 0,  # Of the sampled token alone.
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            # The server has defaults from the model's generation_config.json.
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        }
        session = await anext(self._sessions.get())
        try:
            async with session.post(f"{self._url}/v1/completions", json=body) as response:
                if not response.ok:
                    raise _Refused(response.status, await response.text())
                answer = await response.json()
        except aiohttp.ClientConnectionError as error:
            raise ConnectionError(f"the vLLM server at {self._url}: {one_line(error)}") from error
        try:
            (choice,) = answer["choices"]
            ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            return _completion(job, choice["text"], ids, logprobs, choice["finish_reason"], choice.get("stop_reason"))
        except (LookupError, TypeError, ValueError) as error:
            raise MalformedReply("the server's answer is no completion with token ids and log-probabilities") from error

    async def _card(self) -> dict[str, Any]:
        session = await anext(self._sessions.get())
        async with session.get(f"{self._url}/v1/models", timeout=aiohttp.ClientTimeout(total=60)) as response:
            response.raise_for_status()
            card: dict[str, Any] = (await response.json())["data"][0]
            return card


class InProcessEngine(Tokenizes):
    """An `Engine` over a `vllm.LLM`. Calls that wait at the same time are generated together.

    Args:
        llm: vLLM's engine.
        tokenizer: The tokenizer of its model.
        device: Where it runs.
    """

    constrains = False
    temperature = 1.0

    def __init__(self, llm: "LLM", tokenizer: PreTrainedTokenizerBase, device: torch.device) -> None:
        self.tokenizer = tokenizer
        self._llm = llm
        self._device = device
        self._generating = Lock()
        self.context: int = llm.llm_engine.model_config.max_model_len
        self._batcher: MicroBatcher[Job, Completion] = MicroBatcher(
            self._generate, max_batch=_GREATEST_BATCH, max_wait=0.02
        )

    async def complete(self, job: Job) -> Completion:
        return await self._batcher.submit(job).outcome()

    def settle(self) -> None:
        """Wait for what is being generated although nobody waits for it, such as calls that took too long."""
        with self._generating:
            pass

    def _generate(self, entries: list[Entry[Job, Completion]]) -> list[Completion]:
        if self._device.type != "cpu":  # A thread begins with the first device.
            torch.accelerator.set_device_index(self._device.index or 0)
        jobs = [entry.job for entry in entries]
        prompts = [{"prompt_token_ids": job.prompt} for job in jobs]
        with self._generating:
            outputs = self._llm.generate(prompts, sampling_params=[_sampling(job) for job in jobs], use_tqdm=False)
        return [_from_output(job, output) for job, output in zip(jobs, outputs, strict=True)]


class _Refused(Exception):
    """An answer with an HTTP status that is no success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {' '.join(text.split())[:500]}")
        self.status = status


async def _lend_session() -> AsyncGenerator[aiohttp.ClientSession, None]:
    # A generator, because `asyncio.run` closes open generators when it ends, so that no connection outlives its loop.
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),  # The chat model's limits cover the whole call.
    ) as session:
        while True:
            yield session


def _sampling(job: Job) -> "SamplingParams":
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=job.max_tokens,
        temperature=job.temperature,
        top_p=job.top_p,
        seed=job.seed,
        stop=list(job.stop),
        logprobs=0,
    )


def _from_output(job: Job, output: "RequestOutput") -> Completion:
    (made,) = output.outputs
    ids = list(made.token_ids)
    logprobs = [each[token].logprob for token, each in zip(ids, made.logprobs or [], strict=True)]
    return _completion(job, made.text, ids, logprobs, made.finish_reason or "", made.stop_reason)


def _completion(
    job: Job, text: str, ids: list[int], logprobs: list[float | None], finish_reason: str, stop_reason: object
) -> Completion:
    if finish_reason not in ("stop", "length"):
        raise ModelError(f"the model in training failed: vLLM ended with {finish_reason or None}")
    if len(logprobs) != len(ids):
        raise ValueError(f"{len(ids)} tokens have {len(logprobs)} log-probabilities")
    ended = finish_reason == "stop" and not isinstance(stop_reason, str)  # By a token, which is the last one.
    known = [None if one is None or one != one else one for one in logprobs]
    return replace(finished(text, job, len(ids) - ended, finish_reason), ids=ids, logprobs=known)
