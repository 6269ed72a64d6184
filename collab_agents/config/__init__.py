"""Configuration: its sections, reading it from YAML, and building the objects it names (`config.build`)."""

from collab_agents.config.load import load_config
from collab_agents.config.sections import (
    AgainstConfig,
    AssistantConfig,
    EvalConfig,
    ExampleConfig,
    JudgeConfig,
    Model,
    ModelConfig,
    PersonasConfig,
    RunConfig,
    RunLimits,
    Section,
    TasksConfig,
    TaskSetConfig,
    UserConfig,
    check_distinct,
)

__all__ = [
    "AgainstConfig",
    "AssistantConfig",
    "EvalConfig",
    "ExampleConfig",
    "JudgeConfig",
    "Model",
    "ModelConfig",
    "PersonasConfig",
    "RunConfig",
    "RunLimits",
    "Section",
    "TaskSetConfig",
    "TasksConfig",
    "UserConfig",
    "check_distinct",
    "load_config",
]
