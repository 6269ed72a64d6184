"""vLLM as an engine: continuous batching on a GPU."""

import asyncio
import atexit
import itertools
import json
import os
import threading
import weakref
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoTokenizer, GenerationConfig

from collab_agents.errors import ConfigError, ModelError
from collab_agents.models.engines.base import Completion, Job, Tokenizes, finished, settled
from collab_agents.models.sources import ADAPTER, base_of, check_folder, label_of_base, loading, tokenizer_of

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

_BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"


class VLLMEngine(Tokenizes):
    """An `Engine` over vLLM, which runs in a process of its own.

    Args:
        source: A folder or a repository of the Hub. An adapter is served beside its model, not merged into it.
        reproducible: Uses vLLM's batch-invariant kernels, so that a call's seed decides its sample whatever else is in
            the batch. Otherwise generation is faster. It holds for all vLLM engines of a process.
        max_batch_size: The most calls that are generated at once.
        cache_gb: Gigabytes for keys and values; by default what vLLM finds free.
    """

    constrains = True

    def __init__(
        self, source: str, *, reproducible: bool = True, max_batch_size: int = 256, cache_gb: int | None = None
    ) -> None:
        os.environ.setdefault(_BATCH_INVARIANT, str(int(reproducible)))  # Some of its modules read it at import.
        from vllm import AsyncEngineArgs, envs

        if bool(envs.VLLM_BATCH_INVARIANT) != reproducible:
            raise ConfigError(
                f"model 'local:{source}': vLLM was loaded with {_BATCH_INVARIANT}={int(not reproducible)}, so that "
                f"reproducible must be {str(not reproducible).lower()} in this process"
            )
        label = f"model 'local:{source}'"
        base = base_of(source, label)
        model = check_folder(base, label_of_base(label, base)) if base else source
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer_of(source, base and model), trust_remote_code=False)
        self.temperature = _default_temperature(model)
        arguments = AsyncEngineArgs(
            model=model,
            enable_lora=base is not None,
            max_lora_rank=_lora_rank(source) if base else 16,
            max_num_seqs=max_batch_size,
            kv_cache_memory_bytes=cache_gb << 30 if cache_gb else None,
            enable_prefix_caching=True,
            disable_log_stats=True,
        )
        # Its event loop must outlive those of its callers.
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        thread.start()
        try:
            started = _start(arguments, source if base else None)
            self._engine, self._adapter = asyncio.run_coroutine_threadsafe(started, self._loop).result()
        except BaseException:
            self._loop.call_soon_threadsafe(self._loop.stop)
            _join(self._loop, thread)
            raise
        self.context: int = self._engine.model_config.max_model_len
        self._numbers = itertools.count()
        close = weakref.finalize(self, _close, self._engine, self._loop, thread)
        # At exit before multiprocessing, which waits for vLLM's process.
        close.atexit = False
        atexit.register(close)

    async def complete(self, job: Job) -> Completion:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._complete(job), self._loop))

    async def _complete(self, job: Job) -> Completion:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        constraint = {"json" if kind == "json_schema" else kind: form for kind, form in job.constraint.items()}
        sampling = SamplingParams(
            max_tokens=job.max_tokens,
            temperature=job.temperature,
            top_p=job.top_p,
            seed=job.seed,
            stop=list(job.stop),
            output_kind=RequestOutputKind.CUMULATIVE if job.listen else RequestOutputKind.FINAL_ONLY,
            structured_outputs=StructuredOutputsParams(**constraint) if constraint else None,
        )
        output = None
        prompt = {"prompt_token_ids": job.prompt}
        number = str(next(self._numbers))
        async for request in self._engine.generate(prompt, sampling, number, lora_request=self._adapter):
            output = request.outputs[0]
            if job.listen:
                job.listen(settled(output.text, job.stop))
        if output is None or output.finish_reason not in ("stop", "length"):
            raise ModelError(f"the local model failed: vLLM ended with {output and output.finish_reason}")
        ended = output.finish_reason == "stop" and not isinstance(output.stop_reason, str)
        return finished(output.text, job, len(output.token_ids) - ended, output.finish_reason)


async def _start(arguments: "AsyncEngineArgs", adapter: str | None) -> "tuple[AsyncLLM, LoRARequest | None]":
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(arguments)
    if adapter is None:
        return engine, None
    request = LoRARequest("adapter", 1, adapter)
    try:
        await engine.add_lora(request)
    except BaseException:
        engine.shutdown()
        raise
    return engine, request


def _close(engine: "AsyncLLM", loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """End vLLM's process, the calls in progress, and the loop."""
    asyncio.run_coroutine_threadsafe(_shut_down(engine), loop)
    _join(loop, thread)


async def _shut_down(engine: "AsyncLLM") -> None:
    try:
        engine.shutdown()
    finally:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        asyncio.get_running_loop().stop()


def _join(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if thread is not threading.current_thread():
        thread.join()
        loop.close()


def _lora_rank(adapter: str) -> int:
    """Return the smallest rank that vLLM has kernels for and that is enough for an adapter."""
    config = json.loads(Path(adapter, ADAPTER).read_text(encoding="utf-8"))
    if "r" not in config:
        raise ConfigError(f"model 'local:{adapter}': vLLM serves LoRA adapters, and this is {config.get('peft_type')}")
    largest = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    return max(8, 1 << (largest - 1).bit_length())


def _default_temperature(source: str) -> float:
    try:
        return float(GenerationConfig.from_pretrained(source).temperature or 1.0)
    except OSError:  # It has no generation_config.json.
        return 1.0


@lru_cache(maxsize=4)
def load_vllm(source: str, reproducible: bool, max_batch_size: int, cache_gb: int | None) -> VLLMEngine:
    """Load a folder or a repository of the Hub, once per process. Raises ConfigError if it cannot be loaded."""
    label = f"model 'local:{source}'"
    source = check_folder(source, label)
    try:
        with loading(label):
            engine = VLLMEngine(source, reproducible=reproducible, max_batch_size=max_batch_size, cache_gb=cache_gb)
    except RuntimeError as error:  # Its process has printed why.
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{label} cannot be loaded by vLLM: {reason} If the GPU is shared, set cache_gb") from error
    if not engine.tokenizer.chat_template:
        raise ConfigError(f"{label} has no chat template: choose an instruction-tuned model")
    return engine
