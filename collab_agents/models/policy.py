"""The model in training as a chat model: what an app loads as "policy" to be trained.

An app is imported before there is a model in training. So its chat model has no engine; it takes that of the training
in which it is called, by a context variable.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage

from collab_agents.errors import ModelError
from collab_agents.models.engines.base import Engine, Job
from collab_agents.models.local import LocalChatModel


@dataclass(frozen=True)
class Served:
    """The model in training, and how it is sampled.

    Attributes:
        engine: Generates.
        temperature: That of every call, without `top_p`; None leaves both to the app.
        max_tokens: The most tokens of a call, whatever the app says; None leaves them to the app.
    """

    engine: Engine
    temperature: float | None = None
    max_tokens: int | None = None


_served: ContextVar[Served | None] = ContextVar("collab_agents_policy", default=None)


@contextmanager
def serving(policy: Served | None) -> Iterator[None]:
    """Let this be the policy in everything inside, tasks and threads that get the context included."""
    token = _served.set(policy)
    try:
        yield
    finally:
        _served.reset(token)


class PolicyChatModel(LocalChatModel):
    """The model in training, inside an app. Every call outside of a training raises ModelError."""

    @property
    def engine(self) -> Engine:
        return _now().engine

    def _job(self, messages: list[BaseMessage], stop: list[str] | None, call: dict[str, Any]) -> Job:
        policy = _now()
        if policy.temperature is not None:
            call = {**call, "temperature": policy.temperature, "top_p": 1.0}
        if policy.max_tokens is not None:
            asked = call.get("max_tokens") or self.max_tokens or policy.max_tokens
            call = {**call, "max_tokens": min(asked, policy.max_tokens)}
        return super()._job(messages, stop, call)


def _now() -> Served:
    policy = _served.get()
    if policy is None:
        raise ModelError(
            "the model in training answers only while `collab-agents train` plays the app: choose another model's name "
            "elsewhere, and on a thread of the app's own use contextvars.copy_context().run"
        )
    return policy
