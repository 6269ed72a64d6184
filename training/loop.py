"""The sections of `loop.yaml`, and the files of a round's commands that are made from them.

A loop takes the files of `generate`, `evaluate` and `train` as they are. It replaces in them which model plays and is
trained, and which runs are learnt from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from collab_agents._internal.seeds import derive_seed
from collab_agents.config import EvalConfig, RunConfig, Section, load_config
from collab_agents.config.load import validated
from collab_agents.errors import ConfigError
from collab_agents.training.config import OfflineConfig, OnlineConfig
from collab_agents.training.methods import Method
from collab_agents.training.played import (
    FileOrSections,
    Raw,
    bare,
    check_played,
    played_by,
    read_sections,
    with_evaluation,
    with_values,
)


class TrainingConfig(Section):
    """One training of a round."""

    method: Method
    config: FileOrSections
    """The training's file. Its `model.name` and `data.runs` are set by the loop."""
    rounds: list[PositiveInt] | None = None
    """The rounds that have it; by default all."""


class GenerationConfig(Section):
    """How the trajectories of some rounds are generated."""

    config: FileOrSections
    """Their `run.yaml`."""
    rounds: list[PositiveInt] | None = None
    """The rounds that have it; by default all that none before it in the list has."""


def _as_list(given: object) -> object:
    if given is None:
        return []
    return [{"config": given}] if isinstance(given, str | Mapping) else given


class LoopConfig(Section):
    """The whole of `loop.yaml`."""

    rounds: PositiveInt = 3
    """The most rounds."""
    patience: PositiveInt = 1
    """The loop ends after so many rounds in turn without a better held-out reward."""
    model: str = "smollm2"
    """The model that the first round begins with: "smollm2", a folder or a Hub repository."""
    generate: Annotated[list[GenerationConfig], BeforeValidator(_as_list)] = Field(default_factory=list)
    """The `run.yaml` of the rounds' trajectories, or several. Without it, trainings cannot learn from runs."""
    train: list[TrainingConfig] = Field(min_length=1)
    """The trainings of a round, one after the other."""
    evaluate: FileOrSections
    """The `eval.yaml` of the held-out tasks by which the best round is chosen."""
    test: FileOrSections | None = None
    """The `eval.yaml` of further tasks, which the best round plays once at the end, and the first model too."""
    repeats: PositiveInt = 1
    """How often each task of `evaluate` and `test` is played."""
    trajectories: Literal["round", "all"] = "round"
    """Whether a round learns from its own trajectories ("round") or also from those of the rounds before ("all")."""
    most_failures: float = Field(default=0.05, ge=0, lt=1)
    """The share of tasks or conversations of a command that may fail without ending the loop, in [0, 1)."""

    @model_validator(mode="after")
    def _complete(self) -> "LoopConfig":
        for number in range(1, self.rounds + 1):
            if not any(one.rounds is None or number in one.rounds for one in self.train):
                raise ValueError(f"train: round {number} has no training; add {number} to the rounds of one")
        return self


@dataclass(frozen=True)
class Training:
    """A training of the loop, with its sections as they were written."""

    name: str
    """Its folder in a round: the method, and a number if there are several by the same one."""
    method: Method
    raw: Raw
    where: str
    """The file it is from, for messages."""
    rounds: Sequence[int] | None

    def is_in(self, number: int) -> bool:
        """Whether a round has it."""
        return is_in(number, self.rounds)

    @property
    def needs_runs(self) -> bool:
        """Whether it learns from the loop's trajectories."""
        data = self.raw.get("data") or {}
        other = "tasks" if self.method.online else "dataset"
        return not isinstance(data, Mapping) or not (data.get("dataset") or data.get(other))

    def filled(self, model: str, runs: Sequence[str]) -> Raw:
        """Return its file for a round, which begins with this model and learns from these runs."""
        raw = {**self.raw, "model": with_values(self.raw.get("model"), name=model)}
        return raw if not self.needs_runs else {**raw, "data": with_values(self.raw.get("data"), runs=list(runs))}


@dataclass(frozen=True)
class Generation:
    """A way to generate trajectories, with its sections as they were written."""

    raw: Raw
    where: str
    """Where it is named, for messages."""
    rounds: Sequence[int] | None


@dataclass(frozen=True)
class Loop:
    """A loop whose files were all read and are valid."""

    config: LoopConfig
    generations: Sequence[Generation]
    trainings: Sequence[Training]
    evaluate: Raw
    test: Raw | None

    def dump(self) -> Raw:
        """Return everything that decides what the loop does, as JSON values."""
        kept = self.config.model_dump(mode="json", exclude={"generate", "train", "evaluate", "test"})
        trainings = [
            {"method": one.method.value, "config": one.raw, "rounds": one.rounds and list(one.rounds)}
            for one in self.trainings
        ]
        return kept | {
            "generate": [{"config": one.raw, "rounds": one.rounds and list(one.rounds)} for one in self.generations],
            "train": trainings,
            "evaluate": self.evaluate,
            "test": self.test,
        }

    def generation_in(self, number: int) -> int | None:
        """Return the index of the generation of a round, None if it has none."""
        return next((i for i, one in enumerate(self.generations) if is_in(number, one.rounds)), None)

    def generating(self, number: int, generation: Generation, model: str) -> Raw:
        """Return the `run.yaml` of a round. The first has the seed of the file, and later ones have derived seeds."""
        raw = played_by(generation.raw, model)
        seed = raw.get("seed", 0)
        return raw if number == 1 else {**raw, "seed": derive_seed(seed, "round", number)}


def is_in(number: int, rounds: Sequence[int] | None) -> bool:
    """Whether a round is one of these; None is all of them."""
    return rounds is None or number in rounds


def read_loop(path: str | Path) -> Loop:
    """Read `loop.yaml` and the files that it names.

    Raises:
        ConfigError: If one of them cannot be read or is invalid, naming the file, the key and the value.
    """
    config = load_config(path, LoopConfig)
    model = bare(config.model)
    methods = [one.method for one in config.train]
    trainings = []
    for index, one in enumerate(config.train):
        shape = OnlineConfig if one.method.online else OfflineConfig
        raw, where = read_sections(path, f"train.{index}.config", one.config, shape)
        raw = with_evaluation(raw, Path(path).parent / one.config if isinstance(one.config, str) else path)
        name = (
            one.method.value
            if methods.count(one.method) == 1
            else f"{one.method}-{methods[:index].count(one.method) + 1}"
        )
        training = Training(name, one.method, raw, where, one.rounds)
        validated(training.filled(model, ["trajectories"]), shape, where)
        if raw.get("assistant") is not None:
            raise ConfigError(
                f"{where}: assistant: a loop generates with and evaluates a chat model alone: train an app by "
                "collab-agents train grpo"
            )
        if training.needs_runs and not config.generate:
            raise ConfigError(
                f"{path}: generate is missing: {where} learns from trajectories; give a run.yaml, or name a dataset"
                f"{' or tasks' if one.method.online else ''} in its data"
            )
        trainings.append(training)
    loop = Loop(
        config,
        [_generation(path, index, config, model) for index in range(len(config.generate))],
        trainings,
        _playing(path, "evaluate", config.evaluate, model, EvalConfig),
        None if config.test is None else _playing(path, "test", config.test, model, EvalConfig),
    )
    for number in range(1, config.rounds + 1):
        if loop.generation_in(number) is None and any(one.needs_runs and one.is_in(number) for one in trainings):
            raise ConfigError(f"{path}: generate: round {number} has none; add {number} to the rounds of one")
    return loop


def _generation(path: str | Path, index: int, config: LoopConfig, model: str) -> Generation:
    section = f"generate.{index}.config" if len(config.generate) > 1 else "generate"
    one = config.generate[index]
    return Generation(_playing(path, section, one.config, model, RunConfig), f"{path}: {section}", one.rounds)


def _playing(path: str | Path, section: str, given: FileOrSections, model: str, shape: type[Section]) -> Raw:
    raw, where = read_sections(path, section, given, shape)
    check_played(raw, where, model, shape)
    return raw
