"""The sections of `run.yaml` and `eval.yaml`, checked when they are read."""

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

from collab_agents._internal.reasons import nearest
from collab_agents._internal.rows import DataFiles
from collab_agents._internal.secrets import names_of_secrets, secrets_in_url
from collab_agents.lookahead import Lookahead
from collab_agents.models.limits import Limits
from collab_agents.personas import Persona, get_personas
from collab_agents.tasks.mapped import Columns


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _without_secrets(options: dict[str, Any]) -> dict[str, Any]:
    if name := next(names_of_secrets(options), None):
        raise ValueError(
            f"{name} may hold a secret, which a configuration must not; use api_key_env, or read it from the "
            "environment in code of your own"
        )
    return options


Options = Annotated[dict[str, Any], AfterValidator(_without_secrets)]
"""Whatever somebody else's code takes."""


class ModelConfig(Section):
    """A chat model; in YAML its name alone will do.

    name: "openai:...", "huggingface:..." or "local:...". base_url: of a server with the provider's API.
    api_key_env: the environment variable with the key, where it is not the provider's usual one.
    options: further fields of the LangChain class. limits: instead of the run's.
    """

    name: str
    base_url: str | None = None
    api_key_env: str | None = None
    temperature: float | None = Field(default=None, ge=0)
    max_tokens: PositiveInt | None = None
    options: Options = Field(default_factory=dict)
    limits: Limits | None = None

    @field_validator("options")
    @classmethod
    def _no_secrets(cls, options: dict[str, Any]) -> dict[str, Any]:
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


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Model = Annotated[ModelConfig, BeforeValidator(_named)]


class ExampleConfig(Section):
    """A message of an example."""

    role: Literal["user", "assistant"]
    content: str


class AssistantConfig(Section):
    """A chat model with its prompts, or an app of one's own.

    proactive: whether it always answers with its proactive prompt and examples, in the place of the others.
    examples, proactive_examples: messages between the system prompt and every conversation, see `ChatAssistant`.
    app: "module:attribute": a compiled LangGraph app or any Runnable, with `options` those of `GraphAssistant`; or an
        assistant, a class of one, or a function that returns one of these, called with `options`.
    """

    model: Model | None = None
    proactive: bool = False
    system_prompt: str | None = None
    proactive_prompt: str | None = None
    examples: list[ExampleConfig] = Field(default_factory=list)
    proactive_examples: list[ExampleConfig] | None = None
    app: str | None = None
    options: Options = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> "AssistantConfig":
        if (self.model is None) == (self.app is None):
            raise ValueError("assistant: either a model or an app is needed")
        for name in ("proactive", "system_prompt", "proactive_prompt", "examples", "proactive_examples"):
            if self.app is not None and getattr(self, name):
                raise ValueError(f"assistant: {name} is for a model; an app has prompts of its own")
        if self.options and self.app is None:
            raise ValueError("assistant: options are those of an app; a model's stand in assistant.model.options")
        return self


def _persona(value: Any) -> Any:
    return get_personas([value])[0] if isinstance(value, str) else value


USER_KINDS = ("llm", "agenda", "scripted")


class PersonasConfig(Section):
    """Personas that are drawn or read, instead of listed.

    source: a file or dataset of personas, by default those that ship; split, name, column, data_files, revision and
        limit are of it, see `load_personas`.
    sample: how many to draw of them; by default each is there once. mix: by what they are drawn, see `sample_personas`;
        without `sample`, by what the fields of each are, see `load_personas`.
    seed: of all that is drawn; the run's own seed does not change its personas.
    """

    source: str | None = None
    split: str = "train"
    name: str | None = None
    column: str | None = None
    data_files: DataFiles | None = None
    revision: str | None = None
    limit: PositiveInt | None = None
    sample: PositiveInt | None = None
    mix: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0

    @model_validator(mode="after")
    def _complete(self) -> "PersonasConfig":
        if self.source is None:
            for name in ("split", "name", "column", "data_files", "revision", "limit"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is of a source, and there is none")
        if self.source is None and self.mix and self.sample is None:
            raise ValueError("mix is by what personas are drawn: give sample too, how many")
        return self


_LISTED = TypeAdapter(list[Annotated[Persona, BeforeValidator(_persona)]])


def _personas(value: Any) -> Any:
    # Apart, so that an error names the field and not which of the two it was taken for.
    return PersonasConfig.model_validate(value) if isinstance(value, dict) else _LISTED.validate_python(value)


class PlayedConfig(Section):
    """What every kind of user has.

    personas: a list of names of shipped personas and of personas written out, or how to come by them; each task is
        played by one of them.
    """

    personas: Annotated[list[Persona] | PersonasConfig, BeforeValidator(_personas)] = Field(default_factory=list)


class LLMUserConfig(PlayedConfig):
    """A chat model plays the user; see `LLMUser`. tools: as "module:attribute"."""

    kind: Literal["llm"]
    model: Model
    attempts: PositiveInt = 4
    template: str | None = None
    tools: list[str] = Field(default_factory=list)


class AgendaUserConfig(PlayedConfig):
    """Rules play the user; see `AgendaUser`. Needs tasks with agendas."""

    kind: Literal["agenda"] = "agenda"


class ScriptedUserConfig(PlayedConfig):
    """The user says these lines; see `ScriptedUser`."""

    kind: Literal["scripted"]
    lines: list[str] = Field(min_length=1)


class CustomUserConfig(PlayedConfig):
    """A user of your own at "module:attribute", made with `model` and `options` if there are any; see `load_user`."""

    kind: str
    model: Model | None = None
    options: Options = Field(default_factory=dict)

    @field_validator("kind")
    @classmethod
    def _named(cls, kind: str) -> str:
        if ":" not in kind:
            raise ValueError(f"one of {', '.join(USER_KINDS)} or module:attribute is needed{nearest(kind, USER_KINDS)}")
        return kind


def _kind_of(user: Any) -> str:
    kind = user.get("kind", "agenda") if isinstance(user, Mapping) else getattr(user, "kind", "agenda")
    return f"<{kind}>" if kind in USER_KINDS else "<custom>"


# In angle brackets, so that an error's path leaves them out: see `clause_of`.
UserConfig = Annotated[
    Annotated[LLMUserConfig, Tag("<llm>")]
    | Annotated[AgendaUserConfig, Tag("<agenda>")]
    | Annotated[ScriptedUserConfig, Tag("<scripted>")]
    | Annotated[CustomUserConfig, Tag("<custom>")],
    Discriminator(_kind_of),
]
"""Who plays the user, by its `kind`."""


class JudgeConfig(Section):
    """A judge and its weight.

    name: in the record. judge: which it is, by default the one of that name: a judge of this library, or
    "module:function". weight: in the reward; with 0 it is recorded and does not count. timeout: seconds that one of
    your own gets for a conversation, after which there is no score; by default 300.
    """

    name: str
    judge: str | None = None
    weight: FiniteFloat = 1.0
    model: Model | None = None
    options: Options = Field(default_factory=dict)
    timeout: PositiveFloat | None = None


def _distinct(judges: list[JudgeConfig]) -> list[JudgeConfig]:
    names = [judge.name for judge in judges]
    if len(set(names)) < len(names):
        raise ValueError(f"{max(names, key=names.count)!r} is there twice; give each a name of its own")
    return judges


Judges = Annotated[list[JudgeConfig], AfterValidator(_distinct)]
"""Judges of different names."""


class RunLimits(Limits):
    """max_concurrency: tasks under way at once. The rest is for every model of the run."""

    max_concurrency: PositiveInt = 32


class TasksConfig(Section):
    """source: a set of this library, a JSONL file of tasks, or, with `columns`, any dataset: see `load_tasks`.

    split, seed: of a set that has them; the run's own seed does not change its tasks. options: the set's own.
    """

    source: str
    split: str = "train"
    seed: int = 0
    limit: PositiveInt | None = None
    columns: Columns | None = None
    options: Options = Field(default_factory=dict)


class _Scene(Section):
    """What a run and an evaluation have in common. It holds no secrets: keys come from the environment."""

    assistant: AssistantConfig
    user: UserConfig = Field(default_factory=AgendaUserConfig)
    judges: Judges = Field(default_factory=list)
    lookahead: Lookahead = Field(default_factory=Lookahead)
    limits: RunLimits = Field(default_factory=RunLimits)
    seed: int = 0


class RunConfig(_Scene):
    """The whole of `run.yaml`."""

    judges: Judges = Field(min_length=1)
    tasks: TasksConfig


class TaskSetConfig(TasksConfig):
    """Tasks to evaluate on. What is given here takes the place of the file's own section.

    name: in the scorecard, by default the source. split: "test" by default.
    metric: the judge that says how well the task was done, by default the first that is neither interactivity nor a
        cost.
    """

    name: str | None = None
    split: str = "test"
    user: UserConfig | None = None
    judges: Annotated[Judges, Field(min_length=1)] | None = None
    metric: str | None = None
    max_exchanges: PositiveInt | None = None


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class EvalConfig(_Scene):
    """The whole of `eval.yaml`. A `run.yaml` is one too: of its lookahead, only `max_exchanges` counts."""

    tasks: Annotated[list[TaskSetConfig], BeforeValidator(_listed), Field(min_length=1)]

    @model_validator(mode="after")
    def _complete(self) -> "EvalConfig":
        names = [tasks.name or tasks.source for tasks in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"tasks: {max(names, key=names.count)!r} is there twice; give each a name of its own")
        for tasks in self.tasks:
            judges = tasks.judges or self.judges
            if not judges:
                raise ValueError(f"judges: there is none for the tasks {tasks.name or tasks.source!r}")
            if tasks.metric is not None and tasks.metric not in [judge.name for judge in judges]:
                raise ValueError(f"tasks: metric {tasks.metric!r} is none of the judges")
        return self


class AgainstConfig(_Scene):
    """What `evaluate --against` compares with: an assistant. Other sections may be there, if they are the same."""

    tasks: Annotated[list[TaskSetConfig] | None, BeforeValidator(_listed)] = None

    def different_from(self, config: EvalConfig) -> str | None:
        """The first section that would make the comparison unfair."""
        for name in ("user", "judges", "tasks", "seed"):
            if name in self.model_fields_set and getattr(self, name) != getattr(config, name):
                return name
        if "lookahead" in self.model_fields_set and self.lookahead.max_exchanges != config.lookahead.max_exchanges:
            return "lookahead.max_exchanges"
        return None
