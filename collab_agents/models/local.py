"""Chat models in this process, on the engine that suits the model and the machine."""

import asyncio
import ctypes
import importlib.util
import logging
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Literal, get_args

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr

from collab_agents.errors import ConfigError, ModelError
from collab_agents.messages import text_of, to_dicts
from collab_agents.models.elsewhere import is_elsewhere
from collab_agents.models.engines.base import CannotRun, Engine, Job
from collab_agents.models.engines.objects import complete_object
from collab_agents.models.limits import LimitedChatModel, Limits
from collab_agents.models.smollm2 import smollm2, smollm2_openvino
from collab_agents.models.tool_calls import read_calls

EngineName = Literal["auto", "openvino", "vllm", "transformers"]
ENGINE_OPTIONS = ("engine", "reproducible", "cache_gb", "max_batch_size", "dtype", "device")
"""The options of `load_local` that choose and shape the engine."""

_UNLIMITED = Limits(max_concurrent_calls=4096, timeout=None, max_retries=0)
_log = logging.getLogger(__name__)


class LocalChatModel(LimitedChatModel):
    """A chat model in this process, whose concurrent calls are generated together.

    `temperature` defaults to the model's own or 1.0 (0 is greedy), `max_tokens` to 256. A call's `seed` decides its
    sample, whatever else is generated with it.
    """

    shared: ClassVar[bool] = False

    model_name: str = ""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None

    _engine: Engine = PrivateAttr()
    _loaded: dict[str, Any] | None = PrivateAttr(default=None)
    """What `load_local` loaded the engine with."""

    @classmethod
    def over(cls, engine: Engine, *, name: str, **options: Any) -> "LocalChatModel":
        """Create a chat model for a loaded engine, which models with different options may share."""
        chat = cls(model_name=name, **options)
        chat._engine = engine
        return chat

    @property
    def engine(self) -> Engine:
        return self._engine

    def how_to_load(self) -> tuple[Callable[..., "LocalChatModel"], dict[str, Any]]:
        """Return a function that loads this model in another process, and its arguments.

        Raises:
            ConfigError: If it was not loaded by name, as a model in training.
        """
        if self._loaded is None:
            raise ConfigError(
                f"{self.label or self.model_name} exists in this process only, and cannot be sent to others"
            )
        fields = {name: getattr(self, name) for name in self.model_fields_set - {"model_name", "limits"}}
        return load_local, {**self._loaded, "limits": self.limits, **fields}

    @property
    def counted_as(self) -> str:
        return f"local:{self.model_name}"

    @property
    def takes_schemas(self) -> bool:
        return self.structured and self.engine.constrains

    @property
    def _llm_type(self) -> str:
        return "collab-agents-local"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "temperature": self.temperature, "max_tokens": self.max_tokens}

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Tell the model of tools. Its text is read for calls, see `read_calls`; no call is enforced."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    async def _request(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        **kwargs: Any,
    ) -> ChatResult:
        job = self._job(messages, stop, kwargs)
        if "json_schema" in kwargs:
            completion = await complete_object(self.engine, job, kwargs["json_schema"]["schema"])
        else:
            completion = await self.engine.complete(job)
        usage = UsageMetadata(
            input_tokens=len(job.prompt),
            output_tokens=completion.tokens,
            total_tokens=len(job.prompt) + completion.tokens,
        )
        tools = kwargs.get("tools")
        words, calls = read_calls(completion.text, tools, job.seed) if tools else (completion.text, [])
        message = AIMessage(words, tool_calls=calls, usage_metadata=usage)
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
        if kwargs.get("tools"):  # Whether a text is a call is known at its end.
            whole = (await self._agenerate(messages, stop, run_manager, **kwargs)).generations[0].message
            assert isinstance(whole, AIMessage)
            chunk = AIMessageChunk(
                content=text_of(whole), tool_calls=whole.tool_calls, usage_metadata=whole.usage_metadata
            )
            yield ChatGenerationChunk(message=chunk)
            return
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
        ids = self.engine.encode(to_dicts(messages), call.get("tools"))
        max_tokens = call.get("max_tokens") or self.max_tokens or 256
        if len(ids) + max_tokens > self.engine.context:
            raise ModelError(
                f"a prompt of {len(ids)} tokens and {max_tokens} new ones exceed the model's context of "
                f"{self.engine.context} tokens"
            )
        temperature = call.get("temperature", self.temperature)
        seed = call.get("seed", self.seed)
        own = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Job(
            prompt=ids,
            max_tokens=max_tokens,
            temperature=self.engine.temperature if temperature is None else temperature,
            top_p=call.get("top_p", self.top_p) or 1.0,
            seed=random.getrandbits(31) if seed is None else seed,
            stop=tuple(stop or own),
            listen=call.get("listen"),
        )


def load_local(
    name: str,
    *,
    limits: Limits | None = None,
    label: str = "",
    engine: EngineName = "auto",
    reproducible: bool = True,
    max_batch_size: int = 32,
    cache_gb: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    **options: Any,
) -> LocalChatModel:
    """Load a chat model from a folder or the Hub; weights are loaded once per process.

    Args:
        name: A folder, a repository, or "smollm2" for the embedded model.
        limits: Only limits that were set explicitly apply.
        label: The model's name in errors.
        engine: "openvino" (for processors), "vllm" (for GPUs) or "transformers" (for both, and several times slower);
            "auto" takes the first of them that is installed, has its device, and can read the model.
        reproducible: Whether OpenVINO and vLLM compute every text in the same way, whatever else is in the batch, so
            that a call's seed decides its text. Without, a text may depend on its batch, and generation is faster.
        max_batch_size: The most calls in a batch.
        cache_gb: Gigabytes for the keys and values of OpenVINO (by default 1) or vLLM (by default what is free).
        dtype: transformers: the name of a torch type; by default bfloat16 if the processor supports it, else float32.
        device: transformers: by default "cuda" if there is one, else "cpu".
        **options: Fields of `LocalChatModel`.

    Raises:
        ConfigError: If the model cannot be loaded, or not by the engine that was chosen.
    """
    chat = LocalChatModel(model_name=name, limits=local_limits(limits), label=label or name, **options)
    if not is_elsewhere():
        chat._engine = _engine(name, engine, reproducible, max_batch_size, cache_gb, dtype, device)
    chat._loaded = {
        "name": name,
        "engine": engine,
        "reproducible": reproducible,
        "max_batch_size": max_batch_size,
        "cache_gb": cache_gb,
        "dtype": dtype,
        "device": device,
    }
    return chat


def _engine(
    name: str,
    engine: EngineName,
    reproducible: bool,
    max_batch_size: int,
    cache_gb: int | None,
    dtype: str | None,
    device: str | None,
) -> Engine:
    if engine not in get_args(EngineName):
        raise ConfigError(f"model 'local:{name}': engine must be auto, openvino, vllm or transformers, got {engine!r}")
    of_transformers = dtype is not None or device is not None
    if engine in ("openvino", "vllm") and of_transformers:
        raise ConfigError(f"model 'local:{name}': dtype and device are options of engine: transformers")
    label = f"model 'local:{name}'"
    chosen = engine != "auto"
    if not chosen:
        engine = "transformers" if of_transformers else "vllm" if _has_gpu() else "openvino"
    try:
        if engine == "openvino":
            return _on_openvino(name, label, reproducible, max_batch_size, cache_gb)
        if engine == "vllm":
            return _on_vllm(name, reproducible, max_batch_size, cache_gb)
    except CannotRun as why:
        if chosen:
            raise ConfigError(f"{label} cannot run on {engine}: {why}") from why
        _log.warning("%s runs on transformers, not on %s: %s", label, engine, why)
    from collab_agents.models.engines.transformers import load_transformers

    return load_transformers(smollm2() if name == "smollm2" else name, dtype, device, max_batch_size)


def _on_openvino(name: str, label: str, reproducible: bool, max_batch_size: int, cache_gb: int | None) -> Engine:
    if importlib.util.find_spec("openvino_genai") is None:
        raise CannotRun("openvino-genai is not installed")
    from collab_agents.models.engines.converted import openvino_folder
    from collab_agents.models.engines.openvino import load_openvino

    folder = openvino_folder(smollm2_openvino() if name == "smollm2" else name, label, reproducible=reproducible)
    return load_openvino(folder, label, reproducible, max_batch_size, cache_gb or 1)


def _on_vllm(name: str, reproducible: bool, max_batch_size: int, cache_gb: int | None) -> Engine:
    if importlib.util.find_spec("vllm") is None:
        raise CannotRun("vllm is not installed")
    from collab_agents.models.engines.vllm import load_vllm

    return load_vllm(smollm2() if name == "smollm2" else name, reproducible, max_batch_size, cache_gb)


def _has_gpu() -> bool:
    """Whether there is a CUDA device. torch, whose import takes seconds, is asked only if there is a driver."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    import torch

    # Any other check would initialize CUDA, and vLLM could no longer fork its process.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    return torch.cuda.is_available()


def local_limits(limits: Limits | None) -> Limits:
    """Return those limits that were chosen explicitly: a call may wait long for its batch."""
    chosen = {name: getattr(limits, name) for name in limits.model_fields_set} if limits else {}
    return _UNLIMITED.model_copy(update=chosen)
