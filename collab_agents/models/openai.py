"""OpenAI and every server that speaks its API, through langchain-openai."""

from collections.abc import AsyncGenerator
from typing import Any, ClassVar

import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from langchain_openai import ChatOpenAI
from pydantic import PrivateAttr

from collab_agents.models.limits import LimitedChatModel, MalformedReply, PerLoop

# Options that the SDK's own method must see; with any of them a call goes the long way round.
_NEEDS_SDK = {"response_format", "extra_headers", "extra_query", "timeout"}


class LimitedChatOpenAI(LimitedChatModel, ChatOpenAI):
    """`ChatOpenAI` within limits, and at a third of its CPU time per call.

    The SDK walks through every message of a request and every field of a reply to convert them; LangChain has
    made plain JSON of the one and wants plain JSON of the other, so both walks are left out by posting through
    the SDK's client directly (its door for endpoints without a method). The client is the SDK's, on aiohttp.
    """

    transient: ClassVar[tuple[type[BaseException], ...]] = (openai.APIConnectionError,)
    _clients: PerLoop[AsyncGenerator[openai.AsyncOpenAI, None]] = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        self._clients = PerLoop(self._lend_client)

    async def _lend_client(self) -> AsyncGenerator[openai.AsyncOpenAI, None]:
        # A generator, because `asyncio.run` closes those that are open when it ends: no connection outlives its
        # loop, and nobody has to remember to close a model.
        pool = type(openai.DEFAULT_CONNECTION_LIMITS)(
            max_connections=self.limits.max_concurrent_calls, max_keepalive_connections=self.limits.max_concurrent_calls
        )
        http = openai.DefaultAioHttpClient(limits=pool, timeout=self.limits.timeout)
        client = self.root_async_client.with_options(http_client=http)
        try:
            while True:
                yield client
        finally:
            await client.close()

    async def _request(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        **kwargs: Any,
    ) -> ChatResult:
        payload = self._get_request_payload(messages, stop=stop, **kwargs)
        if self.include_response_headers or self._use_responses_api(payload) or not _NEEDS_SDK.isdisjoint(payload):
            return await super()._request(messages, stop, run_manager, **kwargs)
        payload.update(payload.pop("extra_body", None) or {})
        client = await anext(self._clients.get())
        reply = await client.post("/chat/completions", cast_to=object, body=payload)
        if not isinstance(reply, dict) or not reply.get("choices"):
            raise MalformedReply(f"the server's answer is not a chat completion: {str(reply)[:200]!r}")
        return self._create_chat_result(reply)

