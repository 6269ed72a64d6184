"""Files of `generate` and `evaluate` whose assistant is the model that is trained, and the trainings that name them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from collab_agents._internal.reasons import nearest
from collab_agents.config import EvalConfig, Section
from collab_agents.config.load import read_yaml, validated
from collab_agents.errors import ConfigError
from collab_agents.models.local import ENGINE_OPTIONS
from collab_agents.training.config import EvaluationConfig, OfflineConfig, OnlineConfig

T = TypeVar("T", OfflineConfig, OnlineConfig)

Raw = dict[str, Any]
"""A configuration as its file has it."""

FileOrSections = str | Raw
"""A file, relative to the one that names it, or what it would hold."""

SAMPLING = ("temperature", "top_p", "max_tokens", "stop")
"""What can be chosen of how the model in training answers."""


def read_training(path: str | Path, shape: type[T]) -> T:
    """Read a training's file, and the `eval.yaml` that it names.

    Raises:
        ConfigError: If one of them cannot be read or is invalid, naming the file, the key and the value.
    """
    return validated(with_evaluation(read_yaml(path, shape), path), shape, path)


def with_evaluation(raw: Raw, path: str | Path) -> Raw:
    """Return a training's sections with the `eval.yaml` that its evaluation names in place of the name.

    Raises:
        ConfigError: If that file cannot be read or is invalid.
    """
    section = raw.get("evaluation")
    if not isinstance(section, Mapping) or not isinstance(given := section.get("config"), str | dict):
        return raw
    played, where = read_sections(path, "evaluation.config", given, EvalConfig)
    check_played(played, where, "smollm2", EvalConfig)
    config = EvalConfig.model_validate(played_by(played, "smollm2"))
    assert config.assistant.model is not None
    for name in config.assistant.model.options:
        if name not in (*SAMPLING, *ENGINE_OPTIONS):
            raise ConfigError(
                f"{where}: assistant.model.options.{name}: the model in training takes {', '.join(SAMPLING)}"
                f"{nearest(name, SAMPLING)}"
            )
    for name in ("max_calls", "max_cost"):
        if getattr(config.limits, name) is not None:
            raise ConfigError(f"{where}: limits.{name}: the evaluations of a training have no budget; leave it out")
    return {**raw, "evaluation": {**section, "config": played}}


def evaluation_of(section: EvaluationConfig, model: str) -> EvalConfig:
    """Return the evaluation of a training whose file was read by `read_training`, played by the model in training."""
    assert not isinstance(section.config, str)
    return EvalConfig.model_validate(played_by(section.config, model))


def played_by(raw: Raw, model: str) -> Raw:
    """Return a `run.yaml` or `eval.yaml` whose assistant is this model."""
    assistant = raw.get("assistant")
    before = assistant.get("model") if isinstance(assistant, Mapping) else None
    return {**raw, "assistant": with_values(assistant, model=with_values(before, name=f"local:{bare(model)}"))}


def check_played(raw: Raw, where: str, model: str, shape: type[Section]) -> None:
    """Check a `run.yaml` or `eval.yaml` that this model plays. Raises ConfigError, naming where it is from."""
    assistant = raw.get("assistant") or {}
    if isinstance(assistant, Mapping):
        if "app" in assistant:
            raise ConfigError(f"{where}: assistant.app: what is trained is a chat model; give assistant.model instead")
        if isinstance(assistant.get("model"), Mapping) and assistant["model"].get("base_url"):
            raise ConfigError(
                f"{where}: assistant.model.base_url: the model that is trained is played here; leave it out"
            )
    validated(played_by(raw, model), shape, where)


def read_sections(path: str | Path, section: str, given: FileOrSections, shape: type[Section]) -> tuple[Raw, str]:
    """Return the sections of a file that `path` names or holds, and where they are, for messages."""
    if not isinstance(given, str):
        return given, f"{path}: {section}"
    file = Path(path).parent / given
    return read_yaml(file, shape), str(file)


def with_values(section: object, **values: object) -> object:
    """Return a section with some values set. A model's name alone is a section too."""
    if section is None or isinstance(section, str):
        return values
    return {**section, **values} if isinstance(section, Mapping) else section


def bare(model: str) -> str:
    return model.removeprefix("local:")
