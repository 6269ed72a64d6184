"""The built-in judges by name. Each registers itself where it is defined."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from collab_agents.judges.base import Judge

F = TypeVar("F", bound=Callable[..., Judge])


@dataclass(frozen=True)
class RegisteredJudge:
    """A judge that `run.yaml` can name.

    Attributes:
        make: Returns the judge, given its options, and a model if it takes one.
        metric: Whether the score says how well the task was done, which a scorecard needs.
    """

    make: Callable[..., Judge]
    metric: bool

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """Its options by name, without the model."""
        return {name: one for name, one in inspect.signature(self.make).parameters.items() if name != "model"}

    @property
    def takes_model(self) -> bool:
        return self._model is not None

    @property
    def needs_model(self) -> bool:
        return self._model is not None and self._model.default is self._model.empty

    @property
    def needs_options(self) -> bool:
        """Whether it has a required option besides the model."""
        return any(one.default is one.empty for one in self.options.values())

    @property
    def _model(self) -> inspect.Parameter | None:
        return inspect.signature(self.make).parameters.get("model")


JUDGES: dict[str, RegisteredJudge] = {}
"""The built-in judges, by name."""


def register(*, metric: bool = True) -> Callable[[F], F]:
    """Register the function under its own name."""

    def add(make: F) -> F:
        name = make.__name__
        JUDGES[name] = RegisteredJudge(make, metric)
        for other in sorted(JUDGES):  # Keeps the dict sorted by name.
            JUDGES[other] = JUDGES.pop(other)
        return make

    return add
