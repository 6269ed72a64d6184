"""What `train.yaml` may say, checked at the door. The `trainer` section is TRL's own: see `arguments.py`."""

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from collab_agents.config import AgendaUserConfig, Judges, Model, RunLimits, Section, TasksConfig, UserConfig
from collab_agents.lookahead import SERVING


class LoraSection(Section):
    """PEFT's LoRA: rank, alpha, dropout, and which modules."""

    r: PositiveInt = 32
    alpha: PositiveInt = 16
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


class PolicyConfig(Section):
    """The model to train.

    name: "smollm2", a folder or a Hub repository ("local:" before it may be there). dtype: of its weights; by default
    float32 for full fine-tuning and else the device's fastest. lora: null for full fine-tuning. quantize: "4bit" is
    QLoRA (needs bitsandbytes and a GPU). chat_template: a file with a template to use instead of the tokenizer's.
    """

    name: str
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    lora: LoraSection | None = Field(default_factory=LoraSection)
    quantize: Literal["4bit"] | None = None
    chat_template: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> "PolicyConfig":
        if self.quantize and self.lora is None:
            raise ValueError("quantize trains an adapter on a quantized model: it needs lora")
        return self


class DataConfig(Section):
    """What to train on.

    runs: run directories or datasets in a published form. dataset: one made by `collab-agents dataset`, instead.
    eval_share: of the tasks, held out. lower_bounds: by judge, for SFT. minimum_gap, pairs: for preferences.
    system_prompt: before every conversation.
    """

    runs: list[str] = Field(default_factory=list)
    dataset: str | None = None
    eval_share: float = Field(default=0.0, ge=0, lt=1)
    seed: int = 0
    lower_bounds: dict[str, float] = Field(default_factory=dict)
    minimum_gap: float = Field(default=0.0, ge=0)
    pairs: Literal["best_worst", "all"] = "best_worst"
    system_prompt: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        if bool(self.runs) == (self.dataset is not None):
            raise ValueError("give either runs (run directories) or dataset (made before)")
        return self


class OfflineConfig(Section):
    """`train.yaml` for `sft` and `dpo`."""

    model: PolicyConfig
    data: DataConfig
    trainer: dict[str, Any] = Field(default_factory=dict)


class PromptsConfig(Section):
    """Where prompts come from.

    tasks: what their users open with. runs: every turn in these run directories. dataset: of prompts.
    """

    tasks: TasksConfig | None = None
    runs: list[str] = Field(default_factory=list)
    dataset: str | None = None
    eval_share: float = Field(default=0.0, ge=0, lt=1)
    seed: int = 0
    system_prompt: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "PromptsConfig":
        if (self.tasks is not None) + bool(self.runs) + (self.dataset is not None) != 1:
            raise ValueError("give one of tasks, runs and dataset")
        return self


class RewardConfig(Section):
    """The multiturn-aware reward: who plays on, for how long, and who judges.

    policy: the assistant in the futures; null is the model that is being trained, as it is. temperature, max_tokens:
    of that one; by default the trainer's. batch_size: its replies generated together. max_concurrency: replies scored
    at once.
    """

    user: UserConfig = Field(default_factory=AgendaUserConfig)
    judges: Judges = Field(min_length=1)
    futures: PositiveInt = SERVING.futures
    window: NonNegativeInt = SERVING.window
    policy: Model | None = None
    temperature: PositiveFloat | None = None
    max_tokens: PositiveInt | None = None
    batch_size: PositiveInt = 32
    max_concurrency: PositiveInt = 256
    limits: RunLimits = Field(default_factory=RunLimits)
    seed: int = 0


class OnlineConfig(Section):
    """`train.yaml` for `ppo`, `grpo` and `online-dpo`."""

    model: PolicyConfig
    data: PromptsConfig
    reward: RewardConfig
    trainer: dict[str, Any] = Field(default_factory=dict)
