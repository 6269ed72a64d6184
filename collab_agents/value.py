"""A learned value: what a reply is expected to be worth before any of its futures is played.

A `LearnedValue` is a Bayesian ridge regression (Tipping, Sparse Bayesian learning and the relevance vector machine,
2001; MacKay, Bayesian interpolation, 1992) of the rewards of candidates, each less the mean of its turn, on the hidden
states that a frozen language model has in the reply. `collab-agents train value` fits it. A prediction is the prior of
the candidate's true reward: `variance.Prior`.
"""

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt, ValidationError

from collab_agents._internal.reasons import first_problem
from collab_agents.errors import ConfigError
from collab_agents.lookahead import Components, Lookahead
from collab_agents.tasks import Task
from collab_agents.trajectories import Expected, Message, Record

if TYPE_CHECKING:
    from collab_agents.models.features import FeatureEngine

Array = NDArray[np.float64]
ABOUT = "value.json"
WEIGHTS = "value.safetensors"
MODEL = "model"
"""The folder, in that of the value model, of a language model that was fine-tuned for it."""


class ValueModel(Protocol):
    """Expects rewards of replies. A class of your own can take the place of a `LearnedValue`."""

    components: Components
    """The variances of the rewards, of candidates of a turn and of futures of a candidate."""

    async def expect(self, prompt: Sequence[Message], replies: Sequence[Sequence[Message]]) -> list[Expected]:
        """Return what is expected of each candidate of a turn.

        Args:
            prompt: The conversation up to and including the user's message, as role/content dicts.
            replies: The messages of each candidate.
        """
        ...

    def problem_with(self, task: Task) -> str | None:
        """Return why it must not be used for a task, as a clause, or None."""
        ...


class ValueRecord(Record):
    """What `value.json` says: how the value was learned, and how good it is on tasks that it did not learn from."""

    model: str
    """The language model whose hidden states are the features."""
    layers: PositiveInt
    """How many of its layers are read, from the first."""
    fine_tuned: bool = False
    """Whether it was fine-tuned for this value model, and is in its folder."""
    components: Components
    """The variances of the rewards that it learned from."""
    unexplained: NonNegativeFloat
    """The variance of true rewards between the candidates of a turn around what is expected of them, on tasks that it
    did not learn from, besides that which comes from the uncertainty of the weights."""
    explained: float
    """The share of the variance between candidates that it explains, on tasks that it did not learn from."""
    explained_low: float
    """The lower end of its 95% bootstrap interval over tasks."""
    explained_high: float
    tasks: list[str]
    """The ids of the tasks that it learned from."""
    turns: int
    candidates: int

    @property
    def worth(self) -> float | None:
        """How many futures of a candidate tell candidates apart as well as the value does; None if no number does."""
        if self.explained >= 1 or not self.components.between:
            return None
        share = max(self.explained, 0.0)
        return share / (1 - share) * self.components.within / self.components.between


class LearnedValue:
    """A value model that `collab-agents train value` fitted. See `load_value`."""

    def __init__(self, about: ValueRecord, weights: dict[str, Array], features: "FeatureEngine") -> None:
        self.about = about
        self.components = about.components
        self._features = features
        self._weights = weights
        self._tasks = frozenset(about.tasks)
        self.digest = blake2b(about.model_dump_json().encode(), digest_size=8).hexdigest()
        """What a run that is resumed compares."""

    async def expect(self, prompt: Sequence[Message], replies: Sequence[Sequence[Message]]) -> list[Expected]:
        """Return what is expected of each candidate of a turn: by how much its reward is above the turn's mean."""
        if not replies:
            return []
        found = await asyncio.gather(*(self._features.of(prompt, reply) for reply in replies))
        means, spread = predicted(self._weights, np.array(found, dtype=float))
        # Rounded, because the last digits depend on the processor.
        return [
            Expected(mean=float(f"{mean:.5g}"), variance=float(f"{self.about.unexplained + more:.5g}"))
            for mean, more in zip(means, spread, strict=True)
        ]

    def problem_with(self, task: Task) -> str | None:
        """Return why it must not be used for a task, or None. It would know the answers of those it learned from."""
        session = task.metadata.get("session")  # A session of `collab-agents chat` has an id of its own.
        known = session.get("task") if isinstance(session, dict) else None
        return "the value model learned from it" if {task.id, known} & self._tasks else None


def predicted(weights: dict[str, Array], features: Array) -> tuple[Array, Array]:
    """Return the expected rewards of a turn's candidates and their variances due to the weights' uncertainty.

    Args:
        weights: `centre` and `scale` of the features, and the `coefficients` with their `covariance`.
        features: Of shape (candidates, size).
    """
    standard = (features - weights["centre"]) / weights["scale"]
    # What is the same in all of a turn's replies does not tell them apart.
    differences = standard - standard.mean(axis=0)
    spread = np.einsum("ij,jk,ik->i", differences, weights["covariance"], differences)
    return differences @ weights["coefficients"], np.maximum(spread, 0)


def load_value(folder: str | Path) -> LearnedValue:
    """Load a value model that `collab-agents train value` wrote, once per process.

    Raises:
        ConfigError: If the folder has none, or its language model cannot be loaded.

    Example:
        value = load_value("runs/value")
        graph = create_rollout_graph(user, assistant, reward, lookahead, value=value)
    """
    path = Path(folder).expanduser().resolve()
    try:
        made = (path / ABOUT).stat().st_mtime_ns
    except OSError as error:
        raise ConfigError(
            f"value model: {folder} has no {ABOUT}; choose a folder that collab-agents train value wrote"
        ) from error
    return _load(path, str(folder), made)


def value_of(lookahead: Lookahead) -> LearnedValue | None:
    """Return the value model that a lookahead names, or None. Raises ConfigError as `load_value`."""
    return None if lookahead.value is None else load_value(lookahead.value)


@lru_cache(maxsize=4)
def _load(folder: Path, name: str, made: int) -> LearnedValue:
    try:
        about = ValueRecord.model_validate_json((folder / ABOUT).read_bytes())
    except ValidationError as error:
        raise ConfigError(f"value model: {name}/{ABOUT}: {first_problem(error)}") from error
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        from collab_agents.models.features import load_features
    except ImportError as error:
        raise ConfigError('a value model needs pip install "collab-agents[local]"') from error
    try:
        weights = {key: one.astype(float) for key, one in load_file(folder / WEIGHTS).items()}
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"value model: {name}/{WEIGHTS} cannot be read: {error}") from error
    source = str(folder / MODEL) if about.fine_tuned else about.model
    return LearnedValue(about, weights, load_features(source, about.layers))
