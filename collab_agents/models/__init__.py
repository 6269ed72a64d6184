"""LangChain chat models from a name such as "openai:gpt-4o-mini", with a rate limit, retries and a usage count."""

from collab_agents.models.foreign import limited
from collab_agents.models.limits import LimitedChatModel, Limits
from collab_agents.models.load import PROVIDERS, check_chat_model, load_chat_model

__all__ = ["PROVIDERS", "LimitedChatModel", "Limits", "check_chat_model", "limited", "load_chat_model"]
