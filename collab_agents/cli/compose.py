"""From a configuration to the objects it names."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from collab_agents.assistants import ChatAssistant
from collab_agents.config import ModelConfig, RunConfig, UserConfig
from collab_agents.errors import ConfigError, first_problem
from collab_agents.judges import load_judge
from collab_agents.models import LimitedChatModel, Limits, load_chat_model
from collab_agents.rewards import MultiturnReward
from collab_agents.tasks import Agenda, Task, load_tasks
from collab_agents.users import AgendaUser, LLMUser, ScriptedUser, SimulatedUser


@dataclass
class Models:
    """Every chat model of a run; one that is named twice with the same settings is loaded once."""

    limits: Limits
    loaded: dict[str, LimitedChatModel] = field(default_factory=dict)

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
    assistant: ChatAssistant
    user: SimulatedUser
    reward: MultiturnReward
    models: list[LimitedChatModel]


def compose(config: RunConfig) -> Composition:
    chosen = {
        name: getattr(config.limits, name) for name in config.limits.model_fields_set if name in Limits.model_fields
    }
    models = Models(Limits(**chosen))
    assistant = ChatAssistant(
        models.get(config.assistant.model),
        system_prompt=config.assistant.system_prompt,
        proactive_prompt=config.assistant.proactive_prompt,
    )
    judges = {
        judge.name: load_judge(
            judge.name, model=models.get(judge.model) if judge.model else None, options=judge.options
        )
        for judge in config.judges
    }
    reward = MultiturnReward(judges, {judge.name: judge.weight for judge in config.judges})
    user = _user(config.user, models)
    return Composition(assistant, user, reward, list(models.loaded.values()))


def _user(config: UserConfig, models: Models) -> SimulatedUser:
    if config.model is not None:
        return LLMUser(models.get(config.model), attempts=config.attempts)
    return ScriptedUser(config.lines) if config.lines else AgendaUser()


def tasks_of(config: RunConfig) -> Iterator[Task]:
    source = config.tasks
    return load_tasks(source.source, split=source.split, limit=source.limit, seed=source.seed)


def check_tasks(config: RunConfig) -> int:
    """Read every task once, before any work. Returns how many there are. Raises ConfigError for the first that is

    malformed, or lacks what the user or a judge needs.
    """
    needs_agenda = config.user.kind == "agenda" or any(judge.name == "fact_coverage" for judge in config.judges)
    needs_reference = any(judge.name == "bleu" for judge in config.judges)
    count = 0
    for task in tasks_of(config):
        count += 1
        where = f"{config.tasks.source}: task {task.id!r}"
        try:
            agenda: Any = Agenda.of(task)
        except ValidationError as error:
            raise ConfigError(f"{where}: metadata.agenda.{first_problem(error)}") from error
        if needs_agenda and agenda is None:
            raise ConfigError(f"{where} has no metadata.agenda, which agenda users and fact_coverage need")
        if needs_reference and task.reference is None:
            raise ConfigError(f"{where} has no reference, which the judge bleu needs")
    if not count:
        raise ConfigError(f"{config.tasks.source} has no tasks")
    return count
