"""OpenVINO GenAI as an engine: continuous batching on the processor, with a cache of what prompts begin with."""

import json
import os
import queue
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
from openvino import Tensor
from openvino_genai import (
    ContinuousBatchingPipeline,
    GenerationConfig,
    GenerationFinishReason,
    GenerationStatus,
    SchedulerConfig,
    StructuredOutputConfig,
)
from openvino_genai.py_openvino_genai import GenerationHandle

from collab_agents.errors import ConfigError, ModelError
from collab_agents.models.batching import Entry
from collab_agents.models.engines.base import CannotRun, Completion, Job, Tokenizes, finished, one_line, settled
from collab_agents.models.engines.fast_tokenizer import FastTokenizer

_EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""Arithmetic in 32-bit floats."""

_MOST_THREADS = 8
"""When reproducible, because there are at least as many texts in a batch."""

_LINGER = 1.0
"""Seconds that the thread waits for another call before it ends."""


@dataclass
class _Call(Entry[Job, Completion]):
    """A job on its way through the pipeline."""

    handle: GenerationHandle | None = None
    ids: list[int] = field(default_factory=list)


class OpenVINOEngine(Tokenizes):
    """An `Engine` whose calls join and leave the batch at every token.

    Args:
        folder: A model in OpenVINO's form with its tokenizer, from `openvino_folder`.
        reproducible: Computes every text in the same way, whatever else is in the batch, so that a call's seed decides
            its sample: in 32-bit floats, with weights that are not compressed, and without a cache of what prompts
            begin with. Otherwise generation is faster.
        max_batch_size: The most calls that are generated at once.
        cache_gb: Gigabytes for the keys and values of prompts and completions.
    """

    constrains = True

    def __init__(self, folder: Path, *, reproducible: bool = True, max_batch_size: int = 32, cache_gb: int = 1) -> None:
        config, defaults = (_json(folder / name) for name in ("config.json", "generation_config.json"))
        self.context = int(config.get("max_position_embeddings") or 1 << 30)
        self.temperature = float(defaults.get("temperature") or 1.0)
        self.tokenizer = FastTokenizer(folder)
        ends = defaults.get("eos_token_id") or []
        scheduler = SchedulerConfig()
        scheduler.cache_size = cache_gb
        scheduler.max_num_seqs = max_batch_size
        # The rest of a prompt is computed differently if the beginning was cached, or computed in an earlier step.
        scheduler.enable_prefix_caching = not reproducible
        scheduler.max_num_batched_tokens = 1 << 15 if reproducible else 2048
        threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
        properties: dict[str, str] = {}
        if reproducible:
            threads = min(threads or os.cpu_count() or 1, _MOST_THREADS)
            properties = dict(_EXACT)
        if threads:
            properties["INFERENCE_NUM_THREADS"] = str(threads)
        pipeline = ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)
        ends = set(ends if isinstance(ends, list) else [ends])
        self._loop = _Loop(pipeline, self.tokenizer, ends, fewest=threads if reproducible else 1)
        # Also when the interpreter ends: native code in a thread that outlives it would abort it.
        weakref.finalize(self, self._loop.close)

    @property
    def has_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    async def complete(self, job: Job) -> Completion:
        return await self._loop.submit(job).outcome()

    def close(self) -> None:
        """End its thread. Calls that are in progress fail."""
        self._loop.close()


class _Loop:
    """Steps the pipeline on a thread of its own while there are calls."""

    def __init__(
        self, pipeline: ContinuousBatchingPipeline, tokenizer: FastTokenizer, ends: set[int], *, fewest: int
    ) -> None:
        self._pipeline = pipeline
        self._fewest = fewest
        self._fillers: list[GenerationHandle] = []
        self._tokenizer = tokenizer
        self._ends = ends | ({tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set())
        self._new: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._calls = 0

    def submit(self, job: Job) -> _Call:
        call = _Call(job)
        with self._lock:
            self._new.put(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="openvino", daemon=True)
                self._thread.start()
        return call

    def close(self) -> None:
        """End the thread. Calls that are in progress fail."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            self._new.put(None)
            if thread is not threading.current_thread():
                thread.join()

    def _serve(self) -> None:
        active: list[_Call] = []
        idle = True
        while self._accept(active, idle):
            try:
                self._fill(len(active))
                self._pipeline.step()
                active = [call for call in active if not self._is_done(call)]
                idle = not active and not self._pipeline.has_non_finished_requests()
            except Exception as error:
                _fail(active, f"the local model failed: {error}")
                active, idle = [], True  # Without calls, a pipeline that fails must not be stepped for ever.
        _fail(active, "the local model was closed")
        self._fill(0)
        with suppress(Exception):
            while self._pipeline.has_non_finished_requests():
                self._pipeline.step()

    def _accept(self, active: list[_Call], idle: bool) -> bool:
        """Add the next call, and wait for one if there is nothing else to do. Return whether to go on.

        Only one: of two prompts that begin in the same step with a cached text which fills its last block in part, each
        overwrites the other's keys and values (seen in openvino-genai 2026.4).
        """
        while True:
            try:
                call = self._new.get(timeout=_LINGER if idle else 0)
            except queue.Empty:
                if idle and not self._has_ended():
                    continue
                return not idle
            if call is None:
                with self._lock:
                    self._thread = None
                return False
            if call.result.set_running_or_notify_cancel():
                try:
                    self._begin(call)
                except Exception as error:  # OpenVINO refuses its options.
                    _fail([call], f"the local model cannot begin: {error}")
                else:
                    active.append(call)
                    return True

    def _fill(self, active: int) -> None:
        """Generate other texts beside few ones: with fewer texts than threads, threads share the sums of one."""
        wanted = max(0, self._fewest - active) if active else 0
        self._fillers = [one for one in self._fillers if one.get_status() == GenerationStatus.RUNNING]
        while len(self._fillers) > wanted:
            self._fillers.pop().cancel()
        while len(self._fillers) < wanted:
            config = GenerationConfig()
            config.max_new_tokens = 256
            config.ignore_eos = True
            self._calls += 1
            prompt = Tensor(numpy.array([[0]], dtype=numpy.int64))
            self._fillers.append(self._pipeline.add_request(self._calls, prompt, config))

    def _has_ended(self) -> bool:
        """End the thread, unless a call came in this moment."""
        with self._lock:
            if self._new.empty():
                self._thread = None
            return self._thread is None

    def _begin(self, call: _Call) -> None:
        job = call.job
        config = GenerationConfig()
        config.max_new_tokens = job.max_tokens
        config.stop_token_ids = self._ends
        if self._tokenizer.eos_token_id is not None:
            config.eos_token_id = self._tokenizer.eos_token_id
        if job.temperature > 0:
            config.do_sample = True
            config.temperature = job.temperature
            config.top_p = job.top_p
            config.rng_seed = job.seed
        if job.constraint:
            config.structured_output_config = StructuredOutputConfig(**job.constraint)
        self._calls += 1
        prompt = Tensor(numpy.array([job.prompt], dtype=numpy.int64))
        call.handle = self._pipeline.add_request(self._calls, prompt, config)

    def _is_done(self, call: _Call) -> bool:
        assert call.handle is not None
        if call.abandoned:
            call.handle.cancel()
            return True
        reason = GenerationFinishReason.NONE
        while call.handle.can_read():
            for output in call.handle.read().values():
                call.ids += output.generated_ids
                reason = output.finish_reason
        status = call.handle.get_status()
        running = status == GenerationStatus.RUNNING
        job = call.job
        if running and not job.stop and not job.listen:
            return False
        ids = [one for one in call.ids if one not in self._ends]
        text = self._tokenizer.decode(ids)
        if running and not any(stop in text for stop in job.stop):
            if job.listen:
                job.listen(settled(text, job.stop))
            return False
        if running:
            call.handle.cancel()
        if status == GenerationStatus.IGNORED:
            call.result.set_exception(ModelError("the local model has no memory left: raise cache_gb"))
        else:
            word = "length" if reason == GenerationFinishReason.LENGTH else "stop"
            call.result.set_result(replace(finished(text, job, len(ids), word), ids=call.ids))
        return True


def _fail(calls: Sequence[_Call], reason: str) -> None:
    for call in calls:
        if call.handle is not None:
            call.handle.cancel()
        if not call.result.done():
            call.result.set_exception(ModelError(reason))


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


@lru_cache(maxsize=4)
def load_openvino(folder: Path, label: str, reproducible: bool, max_batch_size: int, cache_gb: int) -> OpenVINOEngine:
    """Load a model, once per process.

    Raises:
        CannotRun: If OpenVINO cannot read it.
        ConfigError: If it has no chat template.
    """
    try:
        engine = OpenVINOEngine(folder, reproducible=reproducible, max_batch_size=max_batch_size, cache_gb=cache_gb)
    except Exception as error:  # tokenizers raises nothing narrower.
        raise CannotRun(one_line(error)) from error
    if not engine.has_template:
        raise ConfigError(f"{label} has no chat template: choose an instruction-tuned model")
    return engine
