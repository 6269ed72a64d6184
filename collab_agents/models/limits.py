"""Limits of every chat model in this library: rate, concurrency, waiting time and retries, with a usage count."""

import asyncio
import email.utils
import json
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from asyncio_throttle import Throttler
from langchain_core.callbacks import AsyncCallbackManager, AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig, ensure_config
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, PrivateAttr

from collab_agents._internal.notes import count_error, refusals
from collab_agents._internal.per_loop import PerLoop
from collab_agents._internal.secrets import mask
from collab_agents._internal.seeds import seed_for
from collab_agents._internal.sync import iterate_sync, run_sync
from collab_agents._internal.text import valid
from collab_agents.errors import ModelError
from collab_agents.messages import text_of
from collab_agents.models.shares import Share, share
from collab_agents.usage import ADDRESSES, record_usage, served_name, token_count

T = TypeVar("T")
_KEY_REFUSED = {401, 403}
REFUSED_STATUS = {400, 422}
_LONGEST_WORDS = 500
_FOR_TRACES = {"ls_structured_output_format", "structured_output_format"}
TRANSIENT_STATUS = {408, 409, 425, 429}


class Limits(BaseModel):
    """The limits of a chat model's calls.

    Example:
        model = load_chat_model("openai:gpt-4o-mini", limits=Limits(requests_per_minute=500, timeout=60))
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: PositiveInt | None = None
    """Attempts started in any 60 s window; None is unlimited."""
    max_concurrent_calls: PositiveInt = 256
    """Calls in progress at once."""
    timeout: PositiveFloat | None = 120.0
    """Seconds for one attempt, including connection and body; None waits forever."""
    max_retries: NonNegativeInt = 6
    """Further attempts after a transient failure.

    Transient failures are timeouts, dropped connections, HTTP 408, 409, 425, 429 and 5xx, and a body that is not a
    reply. Each retry waits for Retry-After plus a random exponential backoff. The waits after HTTP 429 without
    Retry-After are longer: six of them take more than a minute.
    """
    max_retry_wait: PositiveFloat = 60.0
    """Seconds. If a server's Retry-After asks for more, the call fails with the server's error."""


class MalformedReply(Exception):
    """The server's answer is not a chat completion. Another attempt may help."""


def usage_of(message: BaseMessage) -> UsageMetadata | None:
    """Return the reply's usage, with implausible token counts corrected, or None."""
    if not isinstance(message, AIMessage) or not message.usage_metadata:
        return None
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        message.usage_metadata[name] = token_count(message.usage_metadata.get(name))
    return message.usage_metadata


def name_of(model: BaseChatModel) -> str:
    """Return the name under which a chat model's calls are counted, see `served_name`."""
    if isinstance(model, LimitedChatModel):
        return model.counted_as
    known: Mapping[str, Any] = model._get_ls_params() if isinstance(model, BaseChatModel) else {}
    address = next((value for name in ADDRESSES if isinstance(value := getattr(model, name, None), str)), None)
    return served_name(known.get("ls_provider"), known.get("ls_model_name"), address)


class LimitedChatModel(BaseChatModel):
    """A mixin, placed before a LangChain chat model class, that applies `limits` to its calls and counts them."""

    limits: Limits = Field(default_factory=Limits)
    label: str = ""
    """The model's name in errors, for example "openai:gpt-4o-mini at http://localhost:8000/v1"."""
    seeded: bool = True
    """Whether each call gets its branch's `seed`. Turn it off for a server that does not support the parameter."""
    structured: bool = True
    """Whether a call that asks for a JSON object sends the object's schema, so that the decoding is constrained to it.

    Models without such an option ignore it. Turn it off for a model that is to think before the object.
    """

    transient: ClassVar[tuple[type[BaseException], ...]] = ()
    """The provider's exceptions for a dropped or failed connection."""
    shared: ClassVar[bool] = True
    """Whether the workers of a run call the same server, and so share the limits."""

    _slots: PerLoop[asyncio.Semaphore] = PrivateAttr()
    _throttle: Throttler | None = PrivateAttr(default=None)
    _queue: PerLoop[asyncio.Lock] = PrivateAttr()
    _busy_seconds: float = PrivateAttr(default=0.0)
    _asks_usage: bool = PrivateAttr(default=True)
    """Whether streams ask for their usage. A server that refuses the request is not asked again."""

    def model_post_init(self, context: object) -> None:
        super().model_post_init(context)
        # Nothing that the model holds refers back to it, so its connections close as soon as it is dropped.
        mine = share() if self.shared else Share()
        most = mine.of(self.limits.max_concurrent_calls, "max_concurrent_calls")
        self._slots = PerLoop(lambda: asyncio.Semaphore(most))
        self._queue = PerLoop(asyncio.Lock)
        if self.limits.requests_per_minute:
            rate = mine.of(self.limits.requests_per_minute, "requests_per_minute")
            self._throttle = Throttler(rate, period=60.0)

    @property
    def busy_seconds(self) -> float:
        """The sum of the seconds that attempts took, without streams."""
        return self._busy_seconds

    @property
    def counted_as(self) -> str:
        """The name under which its calls are counted, and by which its price is found."""
        if self.label:
            return self.label
        known = self._get_ls_params()
        return served_name(known.get("ls_provider"), known.get("ls_model_name"))

    @property
    def takes_schemas(self) -> bool:
        """Whether calls take a `json_schema`, as `schema_of` returns it."""
        return False

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """As in LangChain, but for what it prepares for callbacks, a fifth of a call's CPU time, if there are none."""
        messages = self._convert_input(input).to_messages()
        callbacks = ensure_config(config).get("callbacks")
        listened = AsyncCallbackManager.configure(callbacks, self.callbacks, self.verbose).handlers
        special = _FOR_TRACES & kwargs.keys() or not all(isinstance(message.content, str) for message in messages)
        if listened or special:
            return await super().ainvoke(input, config, stop=stop, **kwargs)
        result = await self._agenerate_with_cache(messages, stop=stop, **kwargs)
        message = result.generations[0].message
        assert isinstance(message, AIMessage)
        return message

    async def _request(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        **kwargs: Any,
    ) -> ChatResult:
        """Make one attempt."""
        return await super()._agenerate(messages, stop, run_manager, **kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await self._answer(messages, stop, run_manager, run_manager.run_id if run_manager else None, kwargs)

    async def _answer(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        run_id: UUID | None,
        kwargs: dict[str, Any],
    ) -> ChatResult:
        kwargs = self._seeded(messages, kwargs)

        async def attempt() -> ChatResult:
            async with self._slots.get():
                await self._throttled()
                started = time.monotonic()
                try:
                    async with asyncio.timeout(self.limits.timeout):
                        return await self._request(messages, stop, run_manager, **kwargs)
                finally:
                    self._busy_seconds += time.monotonic() - started

        result = await self._retried(attempt)
        generation = result.generations[0]
        message = generation.message
        record_usage(usage_of(message), run_id, model=self.counted_as)
        cut = (generation.generation_info or {}).get("finish_reason") == "length"
        if cut and not text_of(message).strip() and not getattr(message, "tool_calls", None):
            name = self.label or self._llm_type
            raise ModelError(f"{name}: the reply was cut at its length before its first word: raise max_tokens")
        return result

    def _seeded(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Add the branch's seed if the caller, such as an app that does not know of branches, gave none."""
        if not self.seeded or "seed" in kwargs:
            return kwargs
        seed = seed_for(lambda: str([(message.type, message.content) for message in messages]))
        return kwargs if seed is None else kwargs | {"seed": seed}

    def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        run_id = run_manager.run_id if run_manager else None
        return self._streamed(messages, stop, run_manager, run_id, kwargs)

    def _chunks(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        """Make one attempt at a stream."""
        return super()._astream(messages, stop, run_manager, **kwargs)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        """Stream from sync code, on a separate event loop."""
        run_id = run_manager.run_id if run_manager else None
        for chunk in iterate_sync(self._streamed(messages, stop, None, run_id, kwargs)):
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _streamed(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        run_id: UUID | None,
        kwargs: dict[str, Any],
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        # A stream is retried only before its first chunk, since streamed text cannot be taken back.
        kwargs = self._seeded(messages, kwargs)
        chosen = "stream_usage" not in type(self).model_fields or not {"stream_usage", "stream_options"}.isdisjoint(
            kwargs
        )
        usage: UsageMetadata | None = None

        async def begin() -> tuple[AsyncIterator[ChatGenerationChunk], ChatGenerationChunk]:
            asked = {} if chosen or not self._asks_usage else {"stream_usage": True}
            await self._throttled()
            chunks = self._chunks(messages, stop, run_manager, **kwargs, **asked)
            try:
                return chunks, await self._next_chunk(chunks)
            except StopAsyncIteration:
                raise MalformedReply("the server's stream has no chunk") from None
            except Exception as error:
                refused = status_of(error) in REFUSED_STATUS and "stream_options" in f"{error} {_words_of(error)}"
                if not asked or not refused:
                    raise
                self._asks_usage = False
                return await begin()

        async with self._slots.get():
            chunks, chunk = await self._retried(begin)
            try:
                while True:
                    if more := usage_of(chunk.message):
                        usage = add_usage(usage, more)
                    yield chunk
                    chunk = await self._next_chunk(chunks)
            except StopAsyncIteration:
                record_usage(usage, run_id, model=self.counted_as)
            except Exception as error:
                raise ModelError(self.reason_for(error)) from error

    async def _next_chunk(self, chunks: AsyncIterator[ChatGenerationChunk]) -> ChatGenerationChunk:
        async with asyncio.timeout(self.limits.timeout):
            return await anext(chunks)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """Call from sync code, on a separate event loop."""
        return run_sync(self._answer(messages, stop, None, run_manager.run_id if run_manager else None, kwargs))

    async def _throttled(self) -> None:
        """Wait until another request may be made."""
        if self._throttle:
            async with self._queue.get():  # The throttler polls, so only the first waiting call should use it.
                await asyncio.sleep(share().seconds_until_open())
                await self._throttle.acquire()

    async def _retried(self, attempt: Callable[[], Awaitable[T]]) -> T:
        tries = 1
        while True:
            try:
                return await attempt()
            except Exception as error:
                if tries > self.limits.max_retries or not self.is_transient(error):
                    reason = self.reason_for(error) + (f" (after {tries} attempts)" if tries > 1 else "")
                    if status_of(error) in _KEY_REFUSED:
                        refusals.add(reason)
                    raise ModelError(reason) from error
                pause = _pause(error, tries)
                count_error(f"call tried again: {_kind_of(error)}")
            tries += 1
            await asyncio.sleep(pause)

    def reason_for(self, error: BaseException) -> str:
        """Return which model failed, and how, in one sentence."""
        reason = describe(error)
        if isinstance(error, TimeoutError) and self.limits.timeout is not None:
            reason = f"no answer within limits.timeout ({self.limits.timeout:g} s)"
        if status_of(error) == 429 and retry_after(error) is None:
            reason += "; set limits.requests_per_minute to what the server allows"
        return f"{self.label or self._llm_type}: {reason}{self._hint(error)}"

    def _hint(self, error: BaseException) -> str:
        """Return what else may be wrong, to append to the reason."""
        return ""

    def is_transient(self, error: BaseException) -> bool:
        """Whether another attempt may help."""
        if getattr(error, "code", None) == "insufficient_quota":
            return False
        status = status_of(error)
        if status is not None:
            asked = retry_after(error)
            return (status in TRANSIENT_STATUS or status >= 500) and (asked or 0) <= self.limits.max_retry_wait
        return isinstance(error, (TimeoutError, ConnectionError, MalformedReply, *self.transient))


def _pause(error: BaseException, tries: int) -> float:
    asked = retry_after(error)
    if asked is None and status_of(error) == 429:
        return random.uniform(1.0, 1.25) * min(20.0, 2.0**tries)
    return (asked or 0.0) + random.uniform(0, min(20.0, 0.25 * 2**tries))


def _kind_of(error: BaseException) -> str:
    """Return what a failed attempt has in common with others."""
    status = status_of(error)
    if status is not None:
        return f"HTTP {status}"
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status behind a provider's exception, if there is one."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            status = getattr(holder, name, None)
            if isinstance(status, int):
                return status
    return None


def retry_after(error: BaseException) -> float | None:
    """Return the pause in seconds that the server asked for, in either form that RFC 9110 allows."""
    headers = getattr(getattr(error, "response", None), "headers", None) or getattr(error, "headers", None) or {}
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        parsed = email.utils.parsedate_tz(value)
        return max(0.0, email.utils.mktime_tz(parsed) - time.time()) if parsed else None
    except (ValueError, OverflowError):  # An impossible date.
        return None


def describe(error: BaseException) -> str:
    """Return an exception as a short reason: its HTTP status, and the server's message or its own first line."""
    status = status_of(error)
    first = _words_of(error) or (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, TimeoutError) and not str(error):
        first = "no answer in time"
    elif status is None and (unreachable := _unreachable(error)):
        first = unreachable
    first = valid(mask(first))
    return f"HTTP {status}: {first}" if status is not None and not first.startswith(f"HTTP {status}") else first


def _unreachable(error: BaseException) -> str:
    """Return why there is no connection, from aiohttp's or httpx's exceptions, which the SDKs wrap."""
    cause: BaseException | None = error
    while cause is not None:
        host, port, reason = (getattr(cause, name, None) for name in ("host", "port", "os_error"))
        if host and reason:
            number = getattr(reason, "errno", None)
            return f"cannot connect to {host}:{port}: {os.strerror(number) if number else reason}"
        if type(cause).__name__ == "ConnectError":
            return f"cannot connect: {cause}"
        cause = cause.__cause__
    return ""


def _words_of(error: BaseException) -> str:
    """Return the message in an error's body, in the forms of OpenAI, FastAPI and others, or ""."""
    body = getattr(error, "body", None)
    if body is None:
        try:
            body = json.loads(error.response.text)  # type: ignore[attr-defined]
        except Exception:  # There is no body, or it has not been read.
            return ""
    return message_in(body)


def message_in(body: object) -> str:
    if isinstance(body, str):
        return mask(" ".join(body.split()))[:_LONGEST_WORDS]
    if isinstance(body, list):
        return "; ".join(filter(None, map(message_in, body)))[:_LONGEST_WORDS]
    if not isinstance(body, dict):
        return ""
    if isinstance(body.get("msg"), str):  # FastAPI's form, for a field.
        return ": ".join([".".join(map(str, body.get("loc") or [])), body["msg"]]).removeprefix(": ")
    return next((words for key in ("error", "detail", "message") if (words := message_in(body.get(key)))), "")
