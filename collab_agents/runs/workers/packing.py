"""Take participants apart for worker processes, and put them together there.

Most objects travel by value. An app or a chat model at the top of a module travels by its name, since it may hold
connections that cannot be copied. Other chat models are made anew from their fields, and what the library itself made
from a class or a function of the user's is made again.
"""

import io
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable
from pydantic import SecretStr
from ray.cloudpickle import CloudPickler, loads

from collab_agents._internal.importing import Loaded, origin_of
from collab_agents._internal.reasons import words_of
from collab_agents._internal.secrets import remember_secret
from collab_agents.errors import ConfigError

_DEEPEST = 12
"""Levels of an object that are searched for what cannot be sent."""


class Packer:
    """Turns objects into bytes. A chat model in several of them is one model in a worker too."""

    def __init__(self) -> None:
        self._kept: list[object] = []
        self._names = dict(_named_objects())

    def pack(self, job: object) -> bytes:
        """Return a job as bytes for `unpack`.

        Raises:
            ConfigError: If something in it cannot be sent. The message says what.
        """
        try:
            return self._dump(job)
        except Exception as error:
            path, culprit = self._obstacle(job, "") or ("", error)
            raise ConfigError(
                f"{path.removeprefix('.make_graph').removeprefix('.') or 'the run'} cannot be sent to workers "
                f"({words_of(culprit)}): define the object that holds it at the top of a module, which workers import, "
                "or create it where it is used"
            ) from error

    def _dump(self, value: object) -> bytes:
        with io.BytesIO() as file:
            _Pickler(file, self).dump(value)
            return file.getvalue()

    def _obstacle(self, value: object, path: str, depth: int = 0) -> tuple[str, Exception] | None:
        """Return where the innermost object is that cannot be packed, and why."""
        try:
            self._dump(value)
            return None
        except Exception as error:
            if depth < _DEEPEST:
                for name, inner in _inside(value):
                    if found := self._obstacle(inner, f"{path}{name}", depth + 1):
                        return found
            return path, error

    def name_of(self, value: object) -> tuple[str, str] | None:
        """Return the module and the attribute by which a worker can import the object, if there are any."""
        return self._names.get(id(value))

    def token_of(self, model: BaseChatModel) -> int:
        """Return what stands for the model in all that this packer packs."""
        self._kept.append(model)  # While it lives, no other object has its id.
        return id(model)


class _Pickler(CloudPickler):
    def __init__(self, file: io.BytesIO, packer: Packer) -> None:
        super().__init__(file)
        self._packer = packer

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Runnable) and (name := self._packer.name_of(value)):
            return _imported, name
        if isinstance(value, BaseChatModel):
            return _remade, (self._packer.token_of(value), *_recipe(value))
        if isinstance(value, Loaded):
            return _called, value.how_to_load()
        if (origin := origin_of(value)) is not None:
            return _called, origin
        return super().reducer_override(value)


def unpack(data: bytes) -> Any:
    """Return what `Packer.pack` packed."""
    return loads(data)


def local_modules() -> list[str]:
    """Return the files and folders of the imported modules that lie in the current folder, to be sent to workers."""
    here = Path.cwd()
    found = {path for module in list(sys.modules.values()) if (path := _place(module, here)) is not None}
    return sorted(map(str, found))


def _place(module: ModuleType, here: Path) -> Path | None:
    name, file = module.__name__.partition(".")[0], getattr(module, "__file__", None)
    if name in ("__main__", "collab_agents") or not file:
        return None
    path = Path(file)
    if not path.is_relative_to(here) or "site-packages" in path.parts or path.is_relative_to(sys.prefix):
        return None
    root = here / path.relative_to(here).parts[0]
    return root if root.stem == name else None


def _named_objects() -> Iterator[tuple[int, tuple[str, str]]]:
    for module_name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or module.__name__ == "__main__":
            continue
        for name, value in list(vars(module).items()):
            if issubclass(type(value), Runnable):
                yield id(value), (module_name, name)


def _inside(value: object) -> Iterator[tuple[str, object]]:
    """Yield the parts of an object with what to append to its path."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", inner) for key, inner in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{index}]", inner) for index, inner in enumerate(value))
    elif isinstance(value, partial):
        yield from ((f".{name}", inner) for name, inner in value.keywords.items())
    else:
        for index, cell in enumerate(getattr(value, "__closure__", None) or ()):
            yield f".{value.__code__.co_freevars[index]}", cell.cell_contents  # type: ignore[attr-defined]
        for name, inner in getattr(value, "__dict__", {}).items():
            yield f".{name}", inner


def _recipe(model: BaseChatModel) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return a function that makes the model again, and its arguments."""
    if isinstance(model, Loaded):
        return model.how_to_load()
    shape = type(model)
    fields = {
        field.alias or name: getattr(model, name)
        for name, field in shape.model_fields.items()
        if not field.exclude and (name in model.model_fields_set or isinstance(getattr(model, name), SecretStr))
    }
    return shape, fields


_models: dict[int, BaseChatModel] = {}
"""A worker's chat models, by token."""


def _remade(token: int, make: Callable[..., BaseChatModel], arguments: dict[str, Any]) -> BaseChatModel:
    if token not in _models:
        for value in arguments.values():
            if isinstance(value, SecretStr):
                remember_secret(value.get_secret_value())
        _models[token] = make(**arguments)
    return _models[token]


def _imported(module: str, name: str) -> object:
    return getattr(import_module(module), name)


def _called(make: Callable[..., object], arguments: dict[str, Any]) -> object:
    return make(**arguments)
