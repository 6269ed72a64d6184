"""Judges by name, as `run.yaml` asks for them."""

import inspect
from collections.abc import Callable
from typing import Any

from langchain_core.language_models import BaseChatModel
from pydantic import ValidationError

from collab_agents.errors import ConfigError, first_problem, nearest
from collab_agents.judges.base import Judge
from collab_agents.judges.bleu import bleu
from collab_agents.judges.fact_coverage import fact_coverage
from collab_agents.judges.interactivity import interactivity
from collab_agents.judges.token_cost import token_cost

JUDGES: dict[str, Callable[..., Judge]] = {
    "bleu": bleu,
    "fact_coverage": fact_coverage,
    "interactivity": interactivity,
    "token_cost": token_cost,
}


def load_judge(name: str, *, model: BaseChatModel | None = None, options: dict[str, Any] | None = None) -> Judge:
    """The judge `name` with its options. Raises ConfigError for an unknown judge or option, a bad value, or a

    model that is missing or not wanted.
    """
    if name not in JUDGES:
        raise ConfigError(f"there is no judge {name!r}: choose from {', '.join(JUDGES)}{nearest(name, JUDGES)}")
    make = JUDGES[name]
    parameters = inspect.signature(make).parameters
    arguments: dict[str, Any] = dict(options or {})
    for option in arguments:
        if option not in parameters or option == "model":
            known = [parameter for parameter in parameters if parameter != "model"]
            raise ConfigError(f"judge {name!r} has no option {option!r}{nearest(option, known)}")
    if ("model" in parameters) != (model is not None):
        raise ConfigError(f"judge {name!r} {'takes no' if model else 'needs a'} model")
    if model is not None:
        arguments["model"] = model
    try:
        return make(**arguments)
    except ValidationError as error:
        raise ConfigError(f"judge {name!r}: {first_problem(error)}") from error
