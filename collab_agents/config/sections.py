"""The sections of `run.yaml` and `eval.yaml`, validated when they are read."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    PositiveFloat,
    PositiveInt,
    Tag,
    TypeAdapter,
    field_validator,
    model_validator,
)

from collab_agents._internal.databases import check_database
from collab_agents._internal.reasons import nearest
from collab_agents._internal.rows import DataFiles
from collab_agents._internal.secrets import names_of_secrets, secrets_in_url
from collab_agents.costs import Price, SpendingLimits
from collab_agents.lookahead import Lookahead
from collab_agents.models.limits import Limits
from collab_agents.personas import Persona, get_personas
from collab_agents.tasks.mapped import Columns


class Section(BaseModel):
    """A section of a configuration file: unknown keys are errors, and values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _without_secrets(options: dict[str, object]) -> dict[str, object]:
    if name := next(names_of_secrets(options), None):
        raise ValueError(
            f"{name} may hold a secret, which a configuration must not; use api_key_env, or read it from the "
            "environment in your own code"
        )
    return options


Options = Annotated[dict[str, Any], AfterValidator(_without_secrets)]
"""Options for code outside this library. They must not hold secrets."""


class ModelConfig(Section):
    """A chat model. In YAML, its name alone is enough."""

    name: str
    """"openai:...", "huggingface:...", "local:..." or another name that `load_chat_model` accepts."""
    base_url: str | None = None
    """The address of a server with the provider's API."""
    api_key_env: str | None = None
    """The environment variable with the key, if it is not the provider's usual one."""
    temperature: float | None = Field(default=None, ge=0)
    max_tokens: PositiveInt | None = None
    """The most tokens of a reply."""
    options: Options = Field(default_factory=dict)
    """More fields of the LangChain class."""
    limits: Limits | None = None
    """Used instead of the run's limits."""

    @field_validator("options")
    @classmethod
    def _no_secrets(cls, options: Options) -> Options:
        for name in options:
            if re.search(r"key|headers|proxy", name):
                raise ValueError(f"{name} may hold a secret, which a configuration must not; use api_key_env")
        return options

    @field_validator("base_url")
    @classmethod
    def _no_secret_in_url(cls, base_url: str | None) -> str | None:
        if name := next(iter(secrets_in_url(base_url or "")), None):
            raise ValueError(f"?{name}= may hold a secret, which a configuration must not; use api_key_env")
        return base_url


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


Model = Annotated[ModelConfig, BeforeValidator(_named)]


class ExampleConfig(Section):
    """One message of an example conversation."""

    role: Literal["user", "assistant"]
    content: str


class AssistantConfig(Section):
    """The assistant: a chat model with its prompts, or your own app."""

    model: Model | None = None
    proactive: bool = False
    """Whether it always answers with the proactive prompt and examples instead of the others."""
    system_prompt: str | None = None
    proactive_prompt: str | None = None
    """The system prompt of proactive candidates; by default one that ships with the library."""
    examples: list[ExampleConfig] = Field(default_factory=list)
    """Messages between the system prompt and every conversation, see `ChatAssistant`."""
    proactive_examples: list[ExampleConfig] | None = None
    """The examples of proactive candidates; by default `examples`."""
    app: str | None = None
    """"module:attribute" of a compiled LangGraph app or any Runnable, an assistant, or a class or function.

    A class of an assistant, or a function that returns one of these, is called with `options`.
    """
    options: Options = Field(default_factory=dict)
    """For an app, the options of `GraphAssistant`; for a class or function, its arguments."""

    @model_validator(mode="after")
    def _complete(self) -> "AssistantConfig":
        if (self.model is None) == (self.app is None):
            raise ValueError("assistant: set either model or app")
        for name in ("proactive", "system_prompt", "proactive_prompt", "examples", "proactive_examples"):
            if self.app is not None and getattr(self, name):
                raise ValueError(f"assistant: {name} cannot be combined with app, which has its own prompts")
        if self.options and self.app is None:
            raise ValueError("assistant: options are for an app; set those of a model in assistant.model.options")
        return self


def _persona(value: object) -> object:
    return get_personas([value])[0] if isinstance(value, str) else value


USER_KINDS = ("llm", "agenda", "scripted")


class PersonasConfig(Section):
    """Personas that are drawn or read from a source instead of listed.

    `split`, `name`, `column`, `data_files`, `revision` and `limit` describe the source, see `load_personas`.
    """

    source: str | None = None
    """A file or dataset of personas; by default those that ship with the library."""
    split: str = "train"
    name: str | None = None
    column: str | None = None
    data_files: DataFiles | None = None
    revision: str | None = None
    limit: PositiveInt | None = None
    sample: PositiveInt | None = None
    """How many personas to draw; by default each is used once."""
    mix: dict[str, Any] = Field(default_factory=dict)
    """The weights of the draw, see `sample_personas`; without `sample`, those of the fields, see `load_personas`."""
    seed: int = 0
    """The seed of everything drawn here. The run's seed does not change its personas."""

    @model_validator(mode="after")
    def _complete(self) -> "PersonasConfig":
        if self.source is None:
            for name in ("split", "name", "column", "data_files", "revision", "limit"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} needs a source, and there is none")
        if self.source is None and self.mix and self.sample is None:
            raise ValueError("mix needs sample, the number of personas to draw")
        return self


_LISTED = TypeAdapter(list[Annotated[Persona, BeforeValidator(_persona)]])


def _personas(value: object) -> object:
    # Validated separately, so that an error names the field and not a member of the union.
    return PersonasConfig.model_validate(value) if isinstance(value, dict) else _LISTED.validate_python(value)


class UserSection(Section):
    """The section that all kinds of users share."""

    personas: Annotated[list[Persona] | PersonasConfig, BeforeValidator(_personas)] = Field(default_factory=list)
    """A list of personas (names of shipped ones, or their fields), or a `PersonasConfig`. Each task gets one."""


class LLMUserConfig(UserSection):
    """A chat model plays the user; see `LLMUser`."""

    kind: Literal["llm"]
    model: Model
    attempts: PositiveInt = 4
    template: str | None = None
    tools: list[str] = Field(default_factory=list)
    """The user's tools, each as "module:attribute"."""


class AgendaUserConfig(UserSection):
    """Rules play the user; see `AgendaUser`. It needs tasks with agendas."""

    kind: Literal["agenda"] = "agenda"


class ScriptedUserConfig(UserSection):
    """The user says these lines; see `ScriptedUser`."""

    kind: Literal["scripted"]
    lines: list[str] = Field(min_length=1)


class CustomUserConfig(UserSection):
    """Your own user at "module:attribute", created with `model` and `options` if there are any; see `load_user`."""

    kind: str
    model: Model | None = None
    options: Options = Field(default_factory=dict)

    @field_validator("kind")
    @classmethod
    def _named(cls, kind: str) -> str:
        if ":" not in kind:
            raise ValueError(f"expected one of {', '.join(USER_KINDS)} or module:attribute{nearest(kind, USER_KINDS)}")
        return kind


def _kind_of(user: object) -> str:
    kind = user.get("kind", "agenda") if isinstance(user, Mapping) else getattr(user, "kind", "agenda")
    return f"<{kind}>" if kind in USER_KINDS else "<custom>"


# The tags have angle brackets so that errors leave them out of the field's path: see `clause_of`.
UserConfig = Annotated[
    Annotated[LLMUserConfig, Tag("<llm>")]
    | Annotated[AgendaUserConfig, Tag("<agenda>")]
    | Annotated[ScriptedUserConfig, Tag("<scripted>")]
    | Annotated[CustomUserConfig, Tag("<custom>")],
    Discriminator(_kind_of),
]
"""The user, by its `kind`."""


class JudgeConfig(Section):
    """A judge and its weight."""

    name: str
    """The name under which its scores are recorded."""
    judge: str | None = None
    """A judge of this library, or "module:function"; by default the judge called `name`."""
    weight: FiniteFloat = 1.0
    """The weight in the reward. A judge with weight 0 is recorded but does not count."""
    model: Model | None = None
    options: Options = Field(default_factory=dict)
    timeout: PositiveFloat | None = None
    """Seconds that your own judge gets for a conversation, after which there is no score; by default 300."""


def _distinct(judges: list[JudgeConfig]) -> list[JudgeConfig]:
    names = [judge.name for judge in judges]
    if len(set(names)) < len(names):
        raise ValueError(f"{max(names, key=names.count)!r} is there twice; give each a different name")
    return judges


Judges = Annotated[list[JudgeConfig], AfterValidator(_distinct)]
"""Judges with distinct names."""


class RunLimits(Limits):
    """The limits of a run: those of each of its models, and of its concurrency."""

    max_concurrency: PositiveInt = 32
    """Tasks in progress at once."""


class SceneLimits(SpendingLimits, RunLimits):
    """`RunLimits`, and what `generate` and `evaluate` may spend."""


def _full_name(model: str) -> str:
    if ":" not in model:
        raise ValueError("expected a model's name with its provider, such as openai:my-model")
    return model


Prices = dict[Annotated[str, AfterValidator(_full_name)], Price]
"""Prices by the model's name, or by its name and address as the table of usage shows them."""


class TasksConfig(Section):
    """The tasks of a run."""

    source: str
    """A task set of this library, a JSONL file of tasks or, with `columns`, any dataset; see `load_tasks`."""
    split: str = "train"
    """The split of a set that has splits."""
    seed: int = 0
    """The seed of a set that is drawn. The run's seed does not change its tasks."""
    limit: PositiveInt | None = None
    """The most tasks."""
    columns: Columns | None = None
    """The columns of a dataset, see `Columns`."""
    options: Options = Field(default_factory=dict)
    """The set's own options."""


class _Scene(Section):
    """What a run and an evaluation share. It has no secrets: keys come from the environment."""

    assistant: AssistantConfig
    user: UserConfig = Field(default_factory=AgendaUserConfig)
    judges: Judges = Field(default_factory=list)
    lookahead: Lookahead = Field(default_factory=Lookahead)
    limits: SceneLimits = Field(default_factory=SceneLimits)
    prices: Prices = Field(default_factory=dict)
    """For models whose price `genai-prices` does not know, or that cost something else for you."""
    checkpoints: str | None = None
    """The PostgreSQL database that keeps unfinished tasks instead of a file: postgresql://user@host/database."""
    seed: int = 0

    @model_validator(mode="after")
    def _has_database(self) -> "_Scene":
        if self.checkpoints is not None:
            check_database(self.checkpoints)
        return self


class RunConfig(_Scene):
    """The whole of `run.yaml`."""

    judges: Judges = Field(min_length=1)
    tasks: TasksConfig


class RejudgeConfig(Section):
    """The file of `rejudge`: its judges. A `run.yaml` is accepted too.

    Of its lookahead, only `drop_faulty` is used. Its limits of spending and its checkpoints are not: nothing is played.
    """

    judges: Judges = Field(min_length=1)
    lookahead: Lookahead = Field(default_factory=Lookahead)
    limits: SceneLimits = Field(default_factory=SceneLimits)
    prices: Prices = Field(default_factory=dict)
    assistant: AssistantConfig | None = None
    user: UserConfig | None = None
    tasks: TasksConfig | None = None
    checkpoints: str | None = None
    seed: int = 0


class TaskSetConfig(TasksConfig):
    """Tasks to evaluate on. `user`, `judges` and `max_exchanges` replace the file's own sections."""

    name: str | None = None
    """The set's name in the scorecard; by default the source."""
    split: str = "test"
    user: UserConfig | None = None
    judges: Annotated[Judges, Field(min_length=1)] | None = None
    metric: str | None = None
    """The judge that measures how well a task was done; by default the first that is not interactivity or a cost."""
    max_exchanges: PositiveInt | None = None


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


class EvalConfig(_Scene):
    """The whole of `eval.yaml`. A `run.yaml` is accepted too; of its lookahead, only `max_exchanges` is used."""

    tasks: Annotated[list[TaskSetConfig], BeforeValidator(_listed), Field(min_length=1)]

    @model_validator(mode="after")
    def _complete(self) -> "EvalConfig":
        names = [tasks.name or tasks.source for tasks in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"tasks: {max(names, key=names.count)!r} is there twice; give each a different name")
        for tasks in self.tasks:
            judges = tasks.judges or self.judges
            if not judges:
                raise ValueError(f"judges: the tasks {tasks.name or tasks.source!r} have none")
            if tasks.metric is not None and tasks.metric not in [judge.name for judge in judges]:
                raise ValueError(f"tasks: metric {tasks.metric!r} is not one of the judges")
        return self


class AgainstConfig(_Scene):
    """The file of `evaluate --against`: an assistant. Other sections must be the same as in `--config`."""

    tasks: Annotated[list[TaskSetConfig] | None, BeforeValidator(_listed)] = None

    def different_from(self, config: EvalConfig) -> str | None:
        """Return the first section that differs and would make the comparison unfair, or None."""
        for name in ("user", "judges", "tasks", "seed"):
            if name in self.model_fields_set and getattr(self, name) != getattr(config, name):
                return name
        if "lookahead" in self.model_fields_set and self.lookahead.max_exchanges != config.lookahead.max_exchanges:
            return "lookahead.max_exchanges"
        return None
