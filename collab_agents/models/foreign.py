"""Chat models of other LangChain packages, with the same limits."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

import aiohttp
import httpx
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableBinding
from pydantic import SecretStr

from collab_agents._internal.secrets import remember_secret
from collab_agents.errors import ConfigError
from collab_agents.models.limits import LimitedChatModel, Limits, name_of


class LimitedForeignModel(LimitedChatModel):
    """Any LangChain chat model, with limits. Created by `limited`."""

    inner: BaseChatModel
    seeded: bool = False
    transient: ClassVar[tuple[type[BaseException], ...]] = (httpx.TransportError, aiohttp.ClientError)

    @property
    def _llm_type(self) -> str:
        return self.inner._llm_type

    @property
    def counted_as(self) -> str:
        return self.label if ":" in self.label else name_of(self.inner)

    async def _request(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        **kwargs: Any,
    ) -> ChatResult:
        return await self.inner._agenerate(messages, stop, run_manager, **kwargs)

    async def _chunks(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        kind = type(self.inner)
        if kind._astream is not BaseChatModel._astream or kind._stream is not BaseChatModel._stream:
            async for chunk in self.inner._astream(messages, stop, run_manager, **kwargs):
                yield chunk
            return
        for generation in (await self._request(messages, stop, run_manager, **kwargs)).generations:
            kept = generation.message.model_dump(exclude={"type"})
            yield ChatGenerationChunk(message=AIMessageChunk(**kept), generation_info=generation.generation_info)

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        bound = self.inner.bind_tools(tools, **kwargs)
        if not isinstance(bound, RunnableBinding):
            raise ConfigError(f"{self._llm_type}: its tools cannot be bound within limits")
        return self.bind(**bound.kwargs)

    def is_transient(self, error: BaseException) -> bool:
        # SDKs have their own errors for a failed connection.
        return super().is_transient(error) or type(error).__name__ in ("APIConnectionError", "APITimeoutError")


def limited(model: BaseChatModel, limits: Limits | None = None) -> LimitedChatModel:
    """Apply limits and retries to a LangChain chat model, and count its calls.

    Without this, a model that you pass as an object is counted, but has only its own limits.

    Args:
        model: Any LangChain chat model. A model of this library is returned unchanged.
        limits: The limits of its calls; by default `Limits()`.
    """
    if isinstance(model, LimitedChatModel):
        return model
    for value in vars(model).values():
        if isinstance(value, SecretStr):
            remember_secret(value.get_secret_value())
    return LimitedForeignModel(inner=model, limits=limits or Limits(), label=model.get_name())
