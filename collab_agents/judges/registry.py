"""The judges of this library by name: each registers itself where it is defined."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from collab_agents.judges.base import Judge

F = TypeVar("F", bound=Callable[..., Judge])


@dataclass(frozen=True)
class RegisteredJudge:
    """A judge that `run.yaml` can name.

    make: called with the judge's options, and a model if it takes one. metric: whether its score says how well the
    task was done, as a scorecard asks.
    """

    make: Callable[..., Judge]
    metric: bool

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """What it can be told, by name, besides the model."""
        return {name: one for name, one in inspect.signature(self.make).parameters.items() if name != "model"}

    @property
    def takes_model(self) -> bool:
        return self._model is not None

    @property
    def needs_model(self) -> bool:
        return self._model is not None and self._model.default is self._model.empty

    @property
    def needs_options(self) -> bool:
        """Whether its name, and a model, are not enough."""
        return any(one.default is one.empty for one in self.options.values())

    @property
    def _model(self) -> inspect.Parameter | None:
        return inspect.signature(self.make).parameters.get("model")


JUDGES: dict[str, RegisteredJudge] = {}


def register(*, metric: bool = True) -> Callable[[F], F]:
    """Register the function under its own name."""

    def add(make: F) -> F:
        name: Any = make.__name__
        JUDGES[name] = RegisteredJudge(make, metric)
        for other in sorted(JUDGES):  # Lists of them are in order.
            JUDGES[other] = JUDGES.pop(other)
        return make

    return add
