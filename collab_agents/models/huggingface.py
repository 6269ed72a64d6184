"""Hugging Face's inference providers and dedicated endpoints, through langchain-huggingface."""

from typing import Any, ClassVar

import aiohttp
import httpx
from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint

from collab_agents.models.limits import LimitedChatModel, Limits


class LimitedChatHuggingFace(LimitedChatModel, ChatHuggingFace):
    """`ChatHuggingFace` over an endpoint, within limits."""

    transient: ClassVar[tuple[type[BaseException], ...]] = (httpx.TransportError, aiohttp.ClientError)


def connect(
    repo: str, *, base_url: str | None, api_key: str | None, limits: Limits, label: str, **options: Any
) -> LimitedChatHuggingFace:
    """The chat model `repo`, on the Hub's inference providers or, with `base_url`, on an endpoint of its own."""
    where = {"endpoint_url": base_url} if base_url else {"repo_id": repo}
    endpoint = HuggingFaceEndpoint(
        **where,
        huggingfacehub_api_token=api_key,
        provider=options.pop("provider", None),
        timeout=int(limits.timeout or 3600),
    )
    return LimitedChatHuggingFace(llm=endpoint, model_id=base_url or repo, limits=limits, label=label, **options)
