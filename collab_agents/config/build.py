"""Build the objects that a configuration names."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from collab_agents._internal.importing import attribute_at
from collab_agents.assistants import Assistant, ChatAssistant, load_assistant
from collab_agents.config.sections import (
    AgendaUserConfig,
    AssistantConfig,
    CustomUserConfig,
    JudgeConfig,
    LLMUserConfig,
    ModelConfig,
    RunConfig,
    RunLimits,
    ScriptedUserConfig,
    TasksConfig,
    UserConfig,
    UserSection,
)
from collab_agents.errors import ConfigError
from collab_agents.judges import load_judge
from collab_agents.models import LimitedChatModel, Limits, load_chat_model
from collab_agents.personas import PERSONAS, Persona, load_personas, sample_personas
from collab_agents.prompts import render
from collab_agents.rewards import MultiturnReward
from collab_agents.tasks import Task, load_tasks
from collab_agents.users import AgendaUser, LLMUser, ScriptedUser, SimulatedUser, load_user


@dataclass
class Models:
    """The chat models of a run; a model named twice with the same settings is loaded once."""

    limits: Limits
    loaded: dict[str, LimitedChatModel] = field(default_factory=dict)

    @classmethod
    def within(cls, limits: RunLimits) -> "Models":
        """Create it with the explicitly chosen limits only, since local models have their own defaults."""
        chosen = limits.model_fields_set & set(Limits.model_fields)
        return cls(Limits(**{name: getattr(limits, name) for name in chosen}))

    def get(self, config: ModelConfig) -> LimitedChatModel:
        """Return the model, loaded on first use."""
        key = config.model_dump_json()
        if key not in self.loaded:
            self.loaded[key] = self._load(config)
        return self.loaded[key]

    def _load(self, config: ModelConfig) -> LimitedChatModel:
        api_key = os.environ.get(config.api_key_env) if config.api_key_env else None
        if config.api_key_env and not api_key:
            raise ConfigError(f"model {config.name!r} needs an API key: set {config.api_key_env}")
        chosen = {"temperature": config.temperature, "max_tokens": config.max_tokens}
        options = {name: value for name, value in chosen.items() if value is not None} | config.options
        limits = config.limits or self.limits
        return load_chat_model(config.name, base_url=config.base_url, api_key=api_key, limits=limits, **options)


@dataclass
class Composition:
    """The objects that a configuration names, and the models that they use."""

    assistant: Assistant
    user: SimulatedUser
    reward: MultiturnReward
    models: list[LimitedChatModel]


def compose(config: RunConfig, models: Models | None = None) -> Composition:
    """Build the assistant, the user and the reward of a run, on its own models or on `models`."""
    models = models or Models.within(config.limits)
    assistant = assistant_of(config.assistant, models)
    reward = reward_of(config.judges, models)
    reward = reward.reviewing() if config.lookahead.drop_faulty else reward
    return Composition(assistant, user_of(config.user, models), reward, list(models.loaded.values()))


def assistant_of(config: AssistantConfig, models: Models) -> Assistant:
    """Build the assistant: a chat model with its prompts, or an app."""
    if config.model is None:
        return load_assistant(config.app or "", options=config.options)
    proactive = config.proactive_prompt or render("proactive")
    examples = [one.model_dump() for one in config.examples]
    asking = examples if config.proactive_examples is None else [one.model_dump() for one in config.proactive_examples]
    return ChatAssistant(
        models.get(config.model),
        system_prompt=proactive if config.proactive else config.system_prompt,
        proactive_prompt=proactive,
        examples=asking if config.proactive else examples,
        proactive_examples=asking,
    )


def user_of(config: UserConfig, models: Models) -> SimulatedUser:
    """Build the simulated user."""
    match config:
        case LLMUserConfig():
            tools = [attribute_at(tool, "user.tools") for tool in config.tools]
            model = models.get(config.model)
            return LLMUser(model, template=config.template, tools=tools, attempts=config.attempts)
        case AgendaUserConfig():
            return AgendaUser()
        case ScriptedUserConfig():
            return ScriptedUser(config.lines)
        case CustomUserConfig():
            own = models.get(config.model) if config.model else None
            return load_user(config.kind, model=own, options=config.options)


def personas_of(config: UserSection) -> list[Persona]:
    """Return the user's personas: listed, drawn, or read from a source."""
    chosen = config.personas
    if isinstance(chosen, list):
        return chosen
    drawn: dict[str, Any] = {"mix": chosen.mix, "seed": chosen.seed}
    personas = list(PERSONAS.values())
    if chosen.source is not None:
        options: dict[str, Any] = chosen.model_dump(exclude={"source", "sample", "mix", "seed"})
        if chosen.sample is None:
            options |= drawn
        personas = list(load_personas(chosen.source, **options))
    return personas if chosen.sample is None else sample_personas(chosen.sample, personas=personas, **drawn)


def reward_of(judges: Sequence[JudgeConfig], models: Models) -> MultiturnReward:
    """Build the reward from its judges and weights."""
    loaded = {
        judge.name: load_judge(
            judge.judge or judge.name,
            model=models.get(judge.model) if judge.model else None,
            options=judge.options,
            timeout=judge.timeout,
        )
        for judge in judges
    }
    return MultiturnReward(loaded, {judge.name: judge.weight for judge in judges})


def tasks_of(config: TasksConfig) -> Iterator[Task]:
    """Load the tasks one by one."""
    for name in TasksConfig.model_fields:
        if name in config.options:
            raise ConfigError(f"tasks.options.{name}: set it as tasks.{name} instead")
    return load_tasks(
        config.source,
        split=config.split,
        limit=config.limit,
        seed=config.seed,
        columns=config.columns,
        **config.options,
    )
