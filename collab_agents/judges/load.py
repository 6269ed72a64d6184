"""Judges by name, as `run.yaml` asks for them."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from langchain_core.language_models import BaseChatModel
from pydantic import ValidationError

from collab_agents._internal.importing import callable_at, not_taken
from collab_agents._internal.reasons import first_problem, nearest, reason_of
from collab_agents.errors import ConfigError
from collab_agents.judges.base import OWN_TIMEOUT, Judge, as_judge
from collab_agents.judges.registry import JUDGES

T = TypeVar("T")


def load_judge(
    name: str,
    *,
    model: BaseChatModel | None = None,
    options: dict[str, Any] | None = None,
    timeout: float | None = None,
) -> Judge:
    """Load a judge by its name, or a custom judge at "module:function".

    A custom function is the judge itself, `(conversation, task) -> float | Score | None`. If there is a model or are
    options, it is called with them instead (`model=...` and each option) and returns the judge.

    Args:
        name: The judge's name, or "module:function".
        model: For judges that ask a model.
        options: The judge's options.
        timeout: Seconds that a custom judge gets for a conversation; by default 300.

    Raises:
        ConfigError: For an unknown judge or option, a bad value, or a model that is missing or not wanted.
    """
    if timeout is not None and ":" not in name:
        raise ConfigError(f"judge {name!r}: timeout is for judges of your own; some others have it as an option")
    if ":" in name:
        timeout = OWN_TIMEOUT if timeout is None else timeout
        own = callable_at(name, "judge")
        if model is None and not options:
            return as_judge(own, timeout=timeout)
        made = _made(name, own, ({"model": model} if model else {}) | (options or {}))
        if not callable(made):
            raise ConfigError(f"judge {name!r}: with a model or options it must return a judge, got {made!r}")
        return as_judge(made, timeout=timeout)
    if name not in JUDGES:
        own_hint = "; a custom one is module:function"
        raise ConfigError(
            f"there is no judge {name!r}: choose from {', '.join(JUDGES)}{nearest(name, JUDGES) or own_hint}"
        )
    registered = JUDGES[name]
    if registered.needs_model and model is None:
        raise ConfigError(f"judge {name!r} needs a model")
    if model is not None and not registered.takes_model:
        raise ConfigError(f"judge {name!r} takes no model")
    return _made(name, registered.make, ({"model": model} if model else {}) | (options or {}))


def _made(name: str, make: Callable[..., T], arguments: dict[str, object]) -> T:
    parameters = inspect.signature(make).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    known = [parameter for parameter in parameters if parameter != "model"]
    for option in not_taken(arguments, make):
        what = "takes no model" if option == "model" else f"has no option {option!r}{nearest(option, known)}"
        raise ConfigError(f"judge {name!r} {what}")
    for option, parameter in parameters.items():
        if option not in arguments and parameter.default is parameter.empty and not open_ended:
            raise ConfigError(f"judge {name!r} needs the option {option!r}")
    try:
        return make(**arguments)
    except ValidationError as error:
        raise ConfigError(f"judge {name!r}: {first_problem(error)}") from error
    except Exception as error:
        if ":" not in name or isinstance(error, ConfigError):
            raise
        raise ConfigError(f"judge {name!r}: {reason_of(error)}") from error
