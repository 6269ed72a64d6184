"""From a configuration to the objects it names."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from collab_agents.assistants import Assistant, ChatAssistant
from collab_agents.config import (
    AssistantConfig,
    JudgeConfig,
    ModelConfig,
    RunConfig,
    RunLimits,
    TasksConfig,
    UserConfig,
)
from collab_agents.errors import ConfigError
from collab_agents.judges import load_judge
from collab_agents.models import LimitedChatModel, Limits, load_chat_model
from collab_agents.prompts import render
from collab_agents.rewards import MultiturnReward
from collab_agents.tasks import Task, load_tasks
from collab_agents.users import AgendaUser, LLMUser, ScriptedUser, SimulatedUser


@dataclass
class Models:
    """Every chat model of a run; one that is named twice with the same settings is loaded once."""

    limits: Limits
    loaded: dict[str, LimitedChatModel] = field(default_factory=dict)

    @classmethod
    def within(cls, limits: RunLimits) -> "Models":
        """Only what was chosen: local models have defaults of their own."""
        chosen = limits.model_fields_set & set(Limits.model_fields)
        return cls(Limits(**{name: getattr(limits, name) for name in chosen}))

    def get(self, config: ModelConfig) -> LimitedChatModel:
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
    assistant: Assistant
    user: SimulatedUser
    reward: MultiturnReward
    models: list[LimitedChatModel]


def compose(config: RunConfig) -> Composition:
    models = Models.within(config.limits)
    assistant = assistant_of(config.assistant, models)
    reward = reward_of(config.judges, models)
    return Composition(assistant, user_of(config.user, models), reward, list(models.loaded.values()))


def assistant_of(config: AssistantConfig, models: Models) -> ChatAssistant:
    proactive = config.proactive_prompt or render("proactive")
    system = proactive if config.proactive else config.system_prompt
    return ChatAssistant(models.get(config.model), system_prompt=system, proactive_prompt=proactive)


def user_of(config: UserConfig, models: Models) -> SimulatedUser:
    if config.model is not None:
        return LLMUser(models.get(config.model), attempts=config.attempts)
    return ScriptedUser(config.lines) if config.lines else AgendaUser()


def reward_of(judges: Sequence[JudgeConfig], models: Models) -> MultiturnReward:
    loaded = {
        judge.name: load_judge(
            judge.judge or judge.name, model=models.get(judge.model) if judge.model else None, options=judge.options
        )
        for judge in judges
    }
    return MultiturnReward(loaded, {judge.name: judge.weight for judge in judges})


def tasks_of(config: TasksConfig) -> Iterator[Task]:
    for name in TasksConfig.model_fields:
        if name in config.options:
            raise ConfigError(f"tasks.options.{name}: it stands beside the options, as tasks.{name}")
    return load_tasks(
        config.source,
        split=config.split,
        limit=config.limit,
        seed=config.seed,
        columns=config.columns,
        **config.options,
    )
