"""The settings of a graph on a server, which clients choose for one run or for an assistant that the server keeps."""

import os
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from collab_agents._internal.markers import HiddenFromApps
from collab_agents._internal.reasons import first_problem, nearest
from collab_agents.config import RunConfig, load_config
from collab_agents.errors import ConfigError
from collab_agents.judges import JUDGES
from collab_agents.lookahead import ON_A_SERVER, Lookahead
from collab_agents.models import PROVIDERS
from collab_agents.personas import PERSONAS, get_personas

_BY_NAME = [name for name, judge in JUDGES.items() if not judge.needs_options]
"""The judges that need no options."""

_EMBEDDED = "local:smollm2"

BASE_URLS = "COLLAB_AGENTS_BASE_URLS"
LOCAL_MODELS = "COLLAB_AGENTS_LOCAL_MODELS"
CONFIGS = "COLLAB_AGENTS_CONFIGS"
"""Environment variables with comma-separated lists of what the server's owner allows clients to choose.

They list the servers' addresses, the names after local: (repositories or folders), and the run.yaml files. Without
them, a client could make the server call into its own network, load any folder, download any repository, or run
whatever a file in its folder names.
"""

_BESIDE_A_FILE = {"config", "persona", "seed", "budget_seconds", "budget_calls"}


def _judge(name: str) -> str:
    if name not in _BY_NAME:
        raise ValueError(f"choose from {', '.join(_BY_NAME)}, or name others in a run.yaml{nearest(name, _BY_NAME)}")
    return name


def _persona(name: str) -> str:
    return get_personas([name])[0].name


JudgeName = Annotated[str, AfterValidator(_judge), Field(json_schema_extra={"enum": [*_BY_NAME]})]
PersonaName = Annotated[str, AfterValidator(_persona), Field(json_schema_extra={"enum": [*PERSONAS]})]


class Settings(BaseModel, HiddenFromApps):
    """The participants, the judges and the lookahead. The defaults need no API and no GPU.

    Clients choose these values, so none of them names code to run or a key to send.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        default=_EMBEDDED,
        description="The assistant's chat model: openai:<model>, huggingface:<repo>, local:smollm2 (the embedded "
        "model), or another local:<repo or folder> that the server allows. Keys come from the server's environment.",
    )
    base_url: str | None = Field(
        default=None,
        description="Address of a server with the provider's API, such as http://localhost:8000/v1. This server must "
        "allow it.",
    )
    temperature: float | None = Field(default=0.7, ge=0, description="The temperature of the assistant's model.")
    max_tokens: PositiveInt | None = Field(
        default=None,
        le=65536,
        description="The most tokens of a reply; by default 96 for local:smollm2, else the provider's default.",
    )
    user: Literal["agenda", "llm"] = Field(
        default="agenda",
        description="Who plays the user: agenda (rules, for tasks with an agenda) or llm (a chat model, for any task).",
    )
    user_model: str | None = Field(default=None, description="The llm user's model; by default the assistant's.")
    persona: PersonaName | None = Field(
        default=None, description="The simulated user's persona; by default the input's persona, or none."
    )
    judges: list[JudgeName] = Field(
        default=["fact_coverage", "token_cost"],
        min_length=1,
        description="The reward is the sum of these judges' scores.",
    )
    judge_model: str | None = Field(
        default=None, description="The model of judges that need one; by default the assistant's."
    )
    candidates: PositiveInt = Field(
        default=ON_A_SERVER.candidates, le=64, description="Replies sampled at each turn (rollout, lookahead_agent)."
    )
    futures: PositiveInt = Field(
        default=ON_A_SERVER.futures, le=64, description="Futures simulated after a reply (all but conversation)."
    )
    window: NonNegativeInt = Field(
        default=ON_A_SERVER.window, le=64, description="Exchanges in a future (all but conversation)."
    )
    max_exchanges: PositiveInt = Field(
        default=ON_A_SERVER.max_exchanges,
        le=256,
        description="Exchanges after which the conversation ends (conversation, rollout).",
    )
    proactive_ratio: float = Field(
        default=ON_A_SERVER.proactive_ratio,
        ge=0,
        le=1,
        description="The share of candidates sampled with the proactive prompt.",
    )
    drop_faulty: bool = Field(
        default=ON_A_SERVER.drop_faulty,
        description="Whether futures in which the simulated user makes a fault are left out of means (all but "
        "conversation). An llm user is reviewed by the judges' model where the task has no agenda.",
    )
    budget_seconds: PositiveFloat | None = Field(
        default=None, description="Seconds for one reply, after which the first candidate is given (lookahead_agent)."
    )
    budget_calls: PositiveInt | None = Field(
        default=None, description="The most model calls for one reply (lookahead_agent)."
    )
    seed: int | None = Field(default=None, description="The run's seed; by default the input's seed, or 0.")
    config: str | None = Field(
        default=None,
        description="A run.yaml that the server allows, which replaces all settings but persona, seed and budget. It "
        "may also name custom judges, keys (api_key_env), limits, and tasks, of which the first is the default.",
    )


def settings_of(context: Mapping[str, object]) -> Settings:
    """Validate what a client sent. Raises ConfigError, which names the setting and the value."""
    try:
        return Settings.model_validate(dict(context))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = str(problem["loc"][-1]) if problem["loc"] else ""
        hint = nearest(key, Settings.model_fields) if problem["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{first_problem(error)}{hint}") from error


def run_config(settings: Settings) -> RunConfig:
    """Return the settings as a run's configuration, or read the file they name.

    Raises:
        ConfigError: For a file that the server's owner does not allow or that is invalid, and for settings that cannot
            be combined with a file.
    """
    if settings.config is not None:
        return _from_file(settings, settings.config)

    _check_allowed(settings)

    def model(name: str | None) -> dict[str, object]:
        return {"name": name or settings.model, "base_url": settings.base_url}

    max_tokens = settings.max_tokens or (96 if settings.model == _EMBEDDED else None)
    assistant = model(None) | {"temperature": settings.temperature, "max_tokens": max_tokens}
    played_by = {"model": model(settings.user_model)} if settings.user == "llm" else {}
    lookahead = settings.model_dump(include=set(Lookahead.model_fields))
    asked = {name for name, judge in JUDGES.items() if judge.needs_model}
    if settings.user == "llm":
        asked.add("user_faults")  # Its tasks need no agenda.
    judges: list[dict[str, object]] = [
        {"name": name, "model": model(settings.judge_model) if name in asked else None} for name in settings.judges
    ]
    if settings.drop_faulty and settings.user == "llm" and "user_faults" not in settings.judges:
        judges.append({"name": "user_faults", "weight": 0, "model": model(settings.judge_model)})
    try:
        return RunConfig.model_validate(
            {
                "assistant": {"model": assistant},
                "user": {"kind": settings.user} | played_by,
                "judges": judges,
                "lookahead": lookahead,
                "tasks": {"source": "offline", "split": "test"},
            }
        )
    except ValidationError as error:
        raise ConfigError(first_problem(error)) from error


def _check_allowed(settings: Settings) -> None:
    if settings.base_url is not None and settings.base_url not in _named_in(BASE_URLS):
        raise ConfigError(
            f"base_url: this server does not allow {settings.base_url!r}; its owner allows addresses by {BASE_URLS}"
        )
    for name in (settings.model, settings.user_model, settings.judge_model):
        if name is not None and name.partition(":")[0] not in PROVIDERS:
            raise ConfigError(f"model {name!r} is not one of {', '.join(f'{one}:...' for one in PROVIDERS)}")
        local = name is not None and name.startswith("local:") and name != _EMBEDDED
        if name is not None and local and name.removeprefix("local:") not in _named_in(LOCAL_MODELS):
            raise ConfigError(
                f"model: this server does not allow {name!r}; its owner allows folders and repositories by "
                f"{LOCAL_MODELS}"
            )


def _named_in(variable: str) -> list[str]:
    return [one.strip() for one in os.environ.get(variable, "").split(",") if one.strip()]


def _from_file(settings: Settings, name: str) -> RunConfig:
    # A form may send every field, so a default value does not count as chosen.
    besides = settings.model_dump(exclude_defaults=True, exclude=_BESIDE_A_FILE)
    if besides:
        raise ConfigError(f"{min(besides)} cannot be combined with config={name}")
    if name not in _named_in(CONFIGS):
        raise ConfigError(f"config: this server does not allow {name!r}; its owner allows files by {CONFIGS}")
    config = load_config(name, RunConfig)
    for judge in config.judges:
        if judge.options.get("sandbox") == "none":
            raise ConfigError(f"config: {name} judges without a sandbox, and a client brings the tests")
    return config
