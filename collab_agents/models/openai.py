"""OpenAI and every server that speaks its API, through langchain-openai."""

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from langchain_openai import ChatOpenAI
from pydantic import PrivateAttr

from collab_agents.models.limits import LimitedChatModel, MalformedReply, PerLoop

# Options that the SDK's own methods must see; a call with any of them goes through the SDK.
_NEEDS_SDK = {"response_format", "extra_headers", "extra_query", "timeout"}


class Refused(Exception):
    """An HTTP status of 400 or more, with the server's own words."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        try:
            error = json.loads(body)["error"]
            message, self.code = error["message"], error.get("code")
        except (ValueError, LookupError, TypeError, AttributeError):
            message, self.code = body[:200].decode(errors="replace").strip() or "no explanation", None
        super().__init__(message)
        self.status = status
        self.headers = headers


class LimitedChatOpenAI(LimitedChatModel, ChatOpenAI):
    """`ChatOpenAI` within limits, and at a third of its CPU time per call.

    LangChain makes plain JSON of a request and reads plain JSON of a reply. Between the two, the SDK walks through
    every message and every field to convert them, and wraps one HTTP client in another; a plain chat completion is
    therefore posted by aiohttp itself, with the SDK client's address and headers. Everything else (structured
    outputs, the responses API, streams) goes through the SDK as in `ChatOpenAI`.
    """

    transient: ClassVar[tuple[type[BaseException], ...]] = (openai.APIConnectionError, aiohttp.ClientError)
    _sessions: PerLoop[AsyncGenerator[aiohttp.ClientSession, None]] = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        self._sessions = PerLoop(self._lend_session)

    async def _lend_session(self) -> AsyncGenerator[aiohttp.ClientSession, None]:
        # A generator, because `asyncio.run` closes those that are open when it ends: no connection outlives its
        # loop, and nobody has to remember to close a model.
        client = self.root_async_client
        headers = {**client.auth_headers, **client.default_headers}
        async with aiohttp.ClientSession(
            headers={name: value for name, value in headers.items() if isinstance(value, str)},
            connector=aiohttp.TCPConnector(limit=self.limits.max_concurrent_calls),
            timeout=aiohttp.ClientTimeout(total=None),  # Limits.timeout is around the whole attempt.
            proxy=_proxy(str(client.base_url)),
        ) as session:
            while True:
                yield session

    async def _request(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        **kwargs: Any,
    ) -> ChatResult:
        payload = self._get_request_payload(messages, stop=stop, **kwargs)
        special = self.include_response_headers or self._use_responses_api(payload) or callable(self.openai_api_key)
        if special or not _NEEDS_SDK.isdisjoint(payload):
            return await super()._request(messages, stop, run_manager, **kwargs)
        payload.update(payload.pop("extra_body", None) or {})
        session = await anext(self._sessions.get())
        client = self.root_async_client
        url = f"{client.base_url}chat/completions"
        async with session.post(url, json=payload, params=client.default_query) as response:
            body = await response.read()
        if response.status >= 400:
            raise Refused(response.status, response.headers, body)
        try:
            result = self._create_chat_result(json.loads(body))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise MalformedReply(f"the server's answer is not a chat completion: {body[:200]!r}") from error
        if not result.generations:
            raise MalformedReply("the server's answer has no choices")
        return result


def _proxy(url: str) -> str | None:
    """The environment's proxy for an address. aiohttp's own `trust_env` would read it on a thread at every call."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)
