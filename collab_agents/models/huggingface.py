"""Hugging Face's inference providers, through langchain-huggingface."""

from typing import Any, ClassVar

import aiohttp
import httpx
from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint

from collab_agents.models.limits import LimitedChatModel, Limits


class LimitedChatHuggingFace(LimitedChatModel, ChatHuggingFace):
    """`ChatHuggingFace` with the Hub's inference providers and limits."""

    transient: ClassVar[tuple[type[BaseException], ...]] = (httpx.TransportError, aiohttp.ClientError)


def connect(repo: str, *, api_key: str, limits: Limits, label: str, **options: Any) -> LimitedChatHuggingFace:
    """Return the chat model `repo` on the Hub's inference providers."""
    endpoint = HuggingFaceEndpoint(
        repo_id=repo,
        huggingfacehub_api_token=api_key,
        provider=options.pop("provider", None),
        timeout=int(limits.timeout or 3600),
    )
    return LimitedChatHuggingFace(llm=endpoint, model_id=repo, limits=limits, label=label, **options)
