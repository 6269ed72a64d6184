"""Build TRL's configuration from a mapping, and check every key and value before a model is loaded."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from collab_agents._internal.reasons import nearest
from collab_agents.errors import ConfigError
from collab_agents.models.weights import has_bfloat16

A = TypeVar("A")

_OURS = {"output_dir": "--out", "resume_from_checkpoint": "--resume"}


def trainer_arguments(shape: Callable[..., A], chosen: Mapping[str, object], out: str | Path, **defaults: object) -> A:
    """Return a TRL config: its own defaults, overridden by `defaults`, overridden by `chosen`.

    Raises:
        ConfigError: For an unknown key (naming the nearest known one), and for a value of the wrong type.
    """
    fields = {field.name for field in dataclasses.fields(shape) if field.init}  # type: ignore[arg-type]
    hints = get_type_hints(shape)
    values: dict[str, object] = {}
    for name, value in chosen.items():
        if name in _OURS:
            raise ConfigError(f"trainer.{name}: set it with {_OURS[name]} instead")
        if name not in fields:
            raise ConfigError(
                f"trainer.{name}: {getattr(shape, '__name__', shape)} has no such key{nearest(name, fields)}"
            )
        values[name] = _typed(name, hints[name], value)
    on_processor = not torch.accelerator.is_available()
    ours = {
        "report_to": ["tensorboard"],
        "use_cpu": on_processor,
        "logging_nan_inf_filter": False,
        **defaults,
    }
    if on_processor and not has_bfloat16() and "fp16" not in values:
        ours["bf16"] = False  # TRL's default is True on any processor.
    try:
        return shape(**{name: value for name, value in ours.items() if name in fields} | values, output_dir=str(out))
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error


def _typed(name: str, hint: Any, value: object) -> object:
    # YAML reads 5e-5 as text, and TRL checks no types. Some of its lists may be a single number (online DPO's beta).
    adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        if isinstance(value, int | float | str):
            with suppress(ValidationError):
                return adapter.validate_python([value])
        problem = error.errors(include_url=False)[0]["msg"]
        raise ConfigError(f"trainer.{name}: {problem[:1].lower()}{problem[1:]}, got {value!r}") from error
