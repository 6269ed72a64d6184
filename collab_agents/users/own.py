"""Turn your own models, graphs and functions into simulated users."""

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
"""Anything that `as_user` accepts."""


def as_user(user: AnyUser) -> SimulatedUser:
    """Turn a model, a graph or a function into a simulated user.

    Args:
        user: An object with `respond` is returned unchanged. A chat model becomes an `LLMUser`. Any other Runnable or
            compiled graph becomes a `RunnableUser`. A function (sync or async) is called as
            `(messages, memory, context)`, or `(messages, memory)` if it takes no context, and returns the next message
            (or None to end the conversation) and its memory.

    Returns:
        The simulated user.

    Raises:
        TypeError: If `user` is a class or anything else.

    Example:
        def impatient(messages, memory, context):
            return (HumanMessage(context.task.goal) if not messages else None), memory


        user = as_user(impatient)
    """
    if isinstance(user, type):
        raise TypeError(f"expected a simulated user, got the class {user.__name__}: pass an instance of it")
    if isinstance(user, SimulatedUser):
        return user
    if isinstance(user, BaseChatModel):
        return LLMUser(user)
    if isinstance(user, Runnable):
        return RunnableUser(user)
    if callable(user):
        return FunctionUser(user)
    raise TypeError(f"a simulated user is an object with respond, a Runnable or a function, got {type(user).__name__}")


def load_user(
    name: str, *, model: BaseChatModel | None = None, options: Mapping[str, object] | None = None
) -> SimulatedUser:
    """Import the user at "module:attribute": anything that `as_user` accepts, or a class or function that returns it.

    Args:
        name: Where to import from, as "module:attribute".
        model: Passed as `model=...` to the class or function at `name`.
        options: Keyword arguments for the class or function at `name`. A class is always called; a function is called
            to make the user if there is a model or an option, and is the user otherwise.

    Returns:
        The simulated user.

    Raises:
        ConfigError: If the import fails, or the attribute does not give a user.
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
