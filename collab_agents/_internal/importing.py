"""Find the user's functions by name ("module:attribute"), and call them, sync or async."""

import asyncio
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Protocol, TypeVar, runtime_checkable

from collab_agents._internal.reasons import nearest, reason_of
from collab_agents.errors import ConfigError

T = TypeVar("T")


@runtime_checkable
class Loaded(Protocol):
    """What another process loads again, since it is large, or is tied to this one."""

    def how_to_load(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Return a function that loads it, and the function's arguments."""
        ...


def callable_at(what: Callable[..., Any] | str, field: str) -> Callable[..., Any]:
    """Return the callable itself, or the one at "module:attribute", searching the current folder too.

    Raises ConfigError, which begins with `field`, if there is none.
    """
    if isinstance(what, str):
        what = attribute_at(what, field)
    if not callable(what):
        raise ConfigError(f"{field}: {what!r} cannot be called")
    return what


def made_with(options: Mapping[str, object], make: Callable[..., T], what: str) -> T:
    """Call the class or function with the options.

    Raises ConfigError, which begins with `what`, for an option that it does not take, or if it fails.
    """
    for option in not_taken(options, make):
        raise ConfigError(f"{what} has no option {option!r}{nearest(option, inspect.signature(make).parameters)}")
    try:
        return remember_origin(make(**options), make, options)
    except Exception as error:
        raise ConfigError(f"{what}: it cannot be made: {reason_of(error)}") from error


_origins: dict[int, tuple[object, Callable[..., object], dict[str, object]]] = {}
"""What a class or a function of the user's has made, by id, and how. It is kept, since ids are used again."""


def remember_origin(made: T, make: Callable[..., T], options: Mapping[str, object]) -> T:
    """Remember how the object was made, so that another process can make it again. Returns the object."""
    _origins[id(made)] = made, make, dict(options)
    return made


def origin_of(made: object) -> tuple[Callable[..., object], dict[str, object]] | None:
    """Return the class or function that made the object and its arguments, or None if nobody knows."""
    origin = _origins.get(id(made))
    return origin and origin[1:]


def not_taken(options: Iterable[str], function: Callable[..., object]) -> list[str]:
    """Return the options for which the function has no argument."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return []
    return [option for option in options if option not in parameters]


def check_takes(function: Callable[..., object], offered: Iterable[str], field: str) -> None:
    """Raise ConfigError, which begins with `field`, if the function needs an argument that is not offered."""
    offered = list(offered)
    for name, parameter in inspect.signature(function).parameters.items():
        optional = parameter.default is not parameter.empty or parameter.kind in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if not optional and name not in offered:
            raise ConfigError(f"{field}: it needs an argument {name!r}, and is given {', '.join(offered)}")


async def called(function: Callable[..., Any], offered: Mapping[str, object]) -> Any:
    """Call the function with those of the offered arguments that it takes.

    An async function is awaited; any other runs on a thread, since it may block.
    """
    parameters = inspect.signature(function).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments = {name: value for name, value in offered.items() if takes_all or name in parameters}
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        return await function(**arguments)
    result = await asyncio.to_thread(function, **arguments)
    return await result if inspect.isawaitable(result) else result


def attribute_at(path: str, field: str) -> Any:
    """Return what is at "module:attribute". Raises ConfigError, which begins with `field`, if there is nothing."""
    module, separator, name = path.partition(":")
    if not separator or not module or not name:
        raise ConfigError(f"{field}: {path!r} is not of the form module:attribute")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        value: Any = import_module(module)
    except (Exception, SystemExit) as error:  # The user's module may raise anything.
        raise ConfigError(f"{field}: {module!r} cannot be imported: {reason_of(error)}") from error
    for part in name.split("."):
        if not hasattr(value, part):
            raise ConfigError(f"{field}: {module!r} has no {name!r}{nearest(part, dir(value))}")
        value = getattr(value, part)
    return value
