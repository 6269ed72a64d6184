"""Read a configuration file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from collab_agents._internal.reasons import clause_of, nearest, place_of
from collab_agents.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


def load_config(path: str | Path, shape: type[M]) -> M:
    """Read a YAML file as a `shape`, a pydantic model.

    Raises:
        ConfigError: If the file cannot be read or is invalid, naming the file, the key and the value.

    Example:
        config = load_config("run.yaml", RunConfig)
    """
    return validated(read_yaml(path, shape), shape, path)


def read_yaml(path: str | Path, shape: type[BaseModel]) -> dict[str, Any]:
    """Return the mapping in a YAML file that is to become a `shape`. Raises ConfigError, naming the file."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError) as error:
        # The line itself is not shown, since it may hold a key.
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f":{line + 1}"
        why = getattr(error, "problem", None) or type(error).__name__
        raise ConfigError(f"{path}{where}: not YAML: {why}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping with the keys {', '.join(shape.model_fields)}")
    return raw


def validated(raw: Mapping[str, Any], shape: type[M], where: str | Path) -> M:
    """Return the mapping as a `shape`. Raises ConfigError, naming where it is from, the key and the value."""
    try:
        return shape.model_validate(raw)
    except ValidationError as error:
        problems: dict[tuple[int | str, ...], str] = {}
        for problem in error.errors(include_url=False):
            # For one field, each shape of a union reports a problem.
            problems.setdefault(place_of(problem)[:2], f"{clause_of(problem)}{_hint(shape, problem)}")
        raise ConfigError(f"{where}: {'; '.join(problems.values())}") from error


def _hint(shape: type[BaseModel], problem: ErrorDetails) -> str:
    key = str(problem["loc"][-1]) if problem["loc"] else ""
    return nearest(key, _known_keys(shape) - {key}) if problem["type"] == "extra_forbidden" else ""


def _known_keys(shape: object) -> set[str]:
    """Return the keys of a model and of the models within it."""
    if isinstance(shape, type) and issubclass(shape, BaseModel):
        within = [_known_keys(field.annotation) for field in shape.model_fields.values()]
        return set(shape.model_fields).union(*within)
    return set[str]().union(*(_known_keys(one) for one in get_args(shape)))
