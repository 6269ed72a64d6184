"""OpenAI and every server with its API, through langchain-openai."""

import json
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, PrivateAttr

from collab_agents._internal.per_loop import PerLoop
from collab_agents._internal.secrets import mask
from collab_agents.models.ask import parse
from collab_agents.models.limits import REFUSED_STATUS, LimitedChatModel, MalformedReply, message_in, status_of
from collab_agents.usage import record_usage, served_name

# A call with any of these options goes through the SDK, whose methods handle them.
_NEEDS_SDK = {"response_format", "extra_headers", "extra_query", "timeout"}


_MOST_BYTES = 32 << 20
_OPENAI = "https://api.openai.com/v1"


class TooLarge(Exception):
    """The server's answer is too large."""

    def __str__(self) -> str:
        return f"the server's answer is larger than {_MOST_BYTES >> 20} MB"


class Refused(Exception):
    """An HTTP error status, with the server's message."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        try:
            parsed = json.loads(body)
        except (ValueError, RecursionError):
            parsed = None
        error = parsed.get("error") if isinstance(parsed, dict) else None
        self.code = error.get("code") if isinstance(error, dict) else None
        message = message_in(parsed) or mask(body[:1000].decode(errors="replace"))[:200].strip() or "no explanation"
        if 300 <= status < 400:
            message = f"redirects are not followed: set base_url to {headers.get('location', 'the final address')}"
        super().__init__(message)
        self.status = status
        self.headers = headers


class LimitedChatOpenAI(LimitedChatModel, ChatOpenAI):
    """`ChatOpenAI` with limits, at a third of its CPU time per call.

    LangChain turns a request into plain JSON and reads a reply from plain JSON. In between, the SDK converts every
    message and every field, and wraps one HTTP client in another. Chat completions and their streams are therefore
    posted with aiohttp directly, with the SDK client's address and headers. Structured outputs and the responses API
    go through the SDK, as in `ChatOpenAI`.
    """

    sends_key: bool = True
    """Whether the key is sent. The SDK requires one even for a server that does not."""

    _asks_schema: bool = PrivateAttr(default=True)
    """Whether requests send schemas. A server that refuses one is not sent any more."""

    transient: ClassVar[tuple[type[BaseException], ...]] = (openai.APIConnectionError, aiohttp.ClientError)
    _sessions: PerLoop[AsyncGenerator[aiohttp.ClientSession, None]] | None = PrivateAttr(default=None)
    _clients: PerLoop[openai.AsyncOpenAI] | None = PrivateAttr(default=None)

    @property
    def takes_schemas(self) -> bool:
        return self.structured and self._asks_schema

    @property
    def counted_as(self) -> str:
        name, address = super().counted_as, str(self.root_async_client.base_url).rstrip("/")
        own = " at " not in name and address != _OPENAI  # An address from the environment is not in the label.
        return served_name(name, None, address) if own else name

    async def _request(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        **kwargs: Any,
    ) -> ChatResult:
        schema: Mapping[str, Any] | None = kwargs.pop("json_schema", None)
        payload = self._get_request_payload(messages, stop=stop, **kwargs)
        if self._needs_sdk(payload):
            return await self._by_sdk(messages, stop, run_manager, kwargs)
        async with await self._post(payload, schema) as response:
            body = await _read(response)
        try:
            result = self._create_chat_result(json.loads(body))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise MalformedReply(f"the server's answer is not a chat completion: {_beginning(body)}") from error
        if not result.generations:
            raise MalformedReply("the server's answer has no choices")
        return result

    async def _chunks(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        *,
        stream_usage: bool | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        schema: Mapping[str, Any] | None = kwargs.pop("json_schema", None)
        kwargs["stream"] = True
        if self._should_stream_usage(stream_usage, **kwargs):
            kwargs["stream_options"] = {"include_usage": True}
        payload = self._get_request_payload(messages, stop=stop, **kwargs)
        if self._needs_sdk(payload):
            async for sdk_chunk in ChatOpenAI._astream(self._with_own_client(), messages, stop, run_manager, **kwargs):
                yield sdk_chunk
            return
        kind: type = AIMessageChunk
        async with await self._post(payload, schema) as response:
            async for data in _events(response):
                try:
                    value = json.loads(data)
                    if "error" in value:
                        raise Refused(_status_in(value), response.headers, data)
                    chunk = self._convert_chunk_to_generation_chunk(value, kind, {})
                except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                    raise MalformedReply(f"a part of the server's answer is not a chunk: {_beginning(data)}") from error
                if chunk is None:
                    continue
                kind = type(chunk.message)
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _needs_sdk(self, payload: dict[str, Any]) -> bool:
        special = self.include_response_headers or self._use_responses_api(payload) or callable(self.openai_api_key)
        return bool(special) or not _NEEDS_SDK.isdisjoint(payload)

    async def _post(self, payload: dict[str, Any], schema: Mapping[str, Any] | None) -> aiohttp.ClientResponse:
        """Post a request, with the schema if the server takes it. Raises Refused for a status that is not a success."""
        payload.update(payload.pop("extra_body", None) or {})
        if schema is None or not self.takes_schemas or "response_format" in payload:
            return await self._send(payload)
        try:
            return await self._send(payload | {"response_format": {"type": "json_schema", "json_schema": schema}})
        except Refused as refused:
            if refused.status not in REFUSED_STATUS:
                raise
        await self._throttled()
        response = await self._send(payload)
        self._asks_schema = False  # It was the schema that was refused.
        return response

    async def _send(self, payload: dict[str, Any]) -> aiohttp.ClientResponse:
        client, most, sends_key = self.root_async_client, self.limits.max_concurrent_calls, self.sends_key
        if self._sessions is None:
            self._sessions = PerLoop(lambda: _lend_session(client, most, sends_key))
        session = await anext(self._sessions.get())
        url = f"{str(client.base_url).rstrip('/')}/chat/completions"
        response = await session.post(url, json=payload, params=client.default_query, allow_redirects=False)
        if response.status >= 300:
            async with response:
                raise Refused(response.status, response.headers, await _read(response))
        return response

    def _with_own_client(self) -> "LimitedChatOpenAI":
        """Return this model with an SDK client that belongs to this event loop and does not follow redirects."""
        shared = self.root_async_client
        if self._clients is None:
            hooks = {} if self.sends_key else {"request": [_drop_key]}
            self._clients = PerLoop(
                lambda: shared.with_options(
                    http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks=hooks)
                )
            )
        client = self._clients.get()
        return self.model_copy(update={"root_async_client": client, "async_client": client.chat.completions})

    async def _by_sdk(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        kwargs: dict[str, Any],
    ) -> ChatResult:
        try:
            return await LimitedChatModel._request(self._with_own_client(), messages, stop, run_manager, **kwargs)
        except openai.LengthFinishReasonError as error:
            # The SDK refuses a structured reply that was cut, but its beginning may be usable.
            reply = error.completion.choices[0].message.content or ""
            usage = error.completion.usage
            counts = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens} if usage else None
            shape = kwargs.get("response_format")
            if isinstance(shape, type) and issubclass(shape, BaseModel):
                try:
                    parsed = parse(reply, shape)
                except ValueError as problem:
                    record_usage(counts, model=self.counted_as)
                    raise MalformedReply(
                        f"the reply was cut at its length and is not a {shape.__name__}: {problem}"
                    ) from error
                total = {**counts, "total_tokens": sum(counts.values())} if counts else None
                message = AIMessage(reply, additional_kwargs={"parsed": parsed}, usage_metadata=total)
                return ChatResult(generations=[ChatGeneration(message=message)])
            record_usage(counts, model=self.counted_as)
            raise MalformedReply("the reply was cut at its length") from error

    def _hint(self, error: BaseException) -> str:
        address = str(self.root_async_client.base_url).rstrip("/")
        if status_of(error) == 404 and not urlsplit(address).path:
            return f" (base_url is {address}, without the /v1 that most servers have)"
        return ""


def _beginning(data: bytes) -> str:
    return mask(repr(bytes(data[:1000])))[:200]


def _status_in(event: dict[str, Any]) -> int:
    """Return the HTTP status that an error in a stream stands for; by default a transient one."""
    error = event["error"]
    code = error.get("code") if isinstance(error, dict) else None
    if code == "rate_limit_exceeded":
        return 429
    return code if isinstance(code, int) and 400 <= code < 600 else 500


async def _drop_key(request: httpx.Request) -> None:
    request.headers.pop("Authorization", None)


async def _lend_session(
    client: openai.AsyncOpenAI, most: int, sends_key: bool
) -> AsyncGenerator[aiohttp.ClientSession, None]:
    # A generator, because `asyncio.run` closes open generators when it ends: no connection outlives its loop, and
    # models need not be closed.
    headers = {**(client.auth_headers if sends_key else {}), **client.default_headers, "Accept-Encoding": "identity"}
    if not sends_key:
        headers.pop("Authorization", None)
    async with aiohttp.ClientSession(
        headers={name: value for name, value in headers.items() if isinstance(value, str)},
        connector=aiohttp.TCPConnector(limit=most),
        timeout=aiohttp.ClientTimeout(total=None),  # Limits.timeout covers the whole attempt.
        proxy=_proxy(str(client.base_url)),
        auto_decompress=False,
    ) as session:
        while True:
            yield session


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the data of server-sent events, up to [DONE]. Raises MalformedReply if the answer is not a stream."""
    if response.content_type != "text/event-stream":
        body = await _read(response)
        raise MalformedReply(f"the server's answer is not a stream: {_beginning(body)}")
    data = bytearray()
    async for line in _lines(response):
        if line.startswith(b"data:"):
            data += line[5:].strip()
        elif not line and data:
            if data == b"[DONE]":
                return
            yield bytes(data)
            data.clear()
    if data and data != b"[DONE]":
        yield bytes(data)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    line, total = bytearray(), 0
    async for piece in response.content.iter_any():
        total += len(piece)
        if total > _MOST_BYTES:
            raise TooLarge
        *ends, rest = piece.split(b"\n")
        for end in ends:
            yield bytes(line + end).rstrip(b"\r")
            line.clear()
        line += rest
    yield bytes(line).rstrip(b"\r")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the body, which may be compressed although that was not requested. Raises TooLarge beyond a limit."""
    packed = bytearray()
    while piece := await response.content.read(65536):
        packed += piece
        if len(packed) > _MOST_BYTES:
            raise TooLarge
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding == "identity":
        return bytes(packed)
    if encoding not in ("gzip", "deflate"):
        raise MalformedReply(f"the server's answer is encoded as {encoding!r}")
    unpacking = zlib.decompressobj(47 if encoding == "gzip" else 15)
    try:
        body = unpacking.decompress(bytes(packed), _MOST_BYTES)
    except zlib.error as error:
        raise MalformedReply("the server's answer is not compressed as it says") from error
    if unpacking.unconsumed_tail:
        raise TooLarge
    return body


def _proxy(url: str) -> str | None:
    """Return the environment's proxy for an address. aiohttp's `trust_env` would read it on a thread at every call."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)
