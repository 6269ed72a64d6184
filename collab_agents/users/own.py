"""Users of one's own: whatever plays one, as a `SimulatedUser`."""

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable

from collab_agents._internal.importing import attribute_at, made_with
from collab_agents.errors import ConfigError
from collab_agents.participants import SimulatedUser
from collab_agents.users.base import FunctionUser
from collab_agents.users.llm import LLMUser
from collab_agents.users.runnable import RunnableUser

AnyUser = SimulatedUser | Runnable[Any, Any] | Callable[..., Any]
"""What `as_user` takes."""


def as_user(user: AnyUser) -> SimulatedUser:
    """The user itself, if it has `respond`, or one made of it.

    A chat model becomes an `LLMUser`, any other Runnable or compiled graph a `RunnableUser`, and a function
    `(messages, memory, context) -> (message, text or None, memory)`, async or not, is a user too; it may leave out
    the context.
    """
    if isinstance(user, type):
        raise TypeError(f"a simulated user is needed, got the class {user.__name__}: make one of it")
    if isinstance(user, SimulatedUser):
        return user
    if isinstance(user, BaseChatModel):
        return LLMUser(user)
    if isinstance(user, Runnable):
        return RunnableUser(user)
    if callable(user):
        return FunctionUser(user)
    raise TypeError(f"a simulated user is something with respond, a Runnable or a function, got {type(user).__name__}")


def load_user(
    name: str, *, model: BaseChatModel | None = None, options: Mapping[str, Any] | None = None
) -> SimulatedUser:
    """The user at "module:attribute": anything that `as_user` takes.

    A class, or with a model or options anything that can be called, is called with them (`model=...` and each option)
    and gives the user. Raises ConfigError, in one sentence, if there is none or it cannot be made.
    """
    own = attribute_at(name, "user.kind")
    arguments = ({"model": model} if model is not None else {}) | dict(options or {})
    if isinstance(own, type) or arguments:
        if not callable(own) or isinstance(own, Runnable):
            raise ConfigError(f"user {name!r} takes no model and no options: it is a {type(own).__name__}")
        own = made_with(arguments, own, f"user {name!r}")
    try:
        return as_user(own)
    except TypeError as error:
        raise ConfigError(f"user {name!r}: {error}") from error
