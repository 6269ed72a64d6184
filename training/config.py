"""The sections of `train.yaml`, validated when read. The `trainer` section is TRL's own: see `arguments.py`."""

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from collab_agents.config import AgendaUserConfig, Judges, Model, RunLimits, Section, TasksConfig, UserConfig
from collab_agents.lookahead import SERVING
from collab_agents.runs.workers import RayOptions


class LoraSection(Section):
    """PEFT's LoRA adapter."""

    r: PositiveInt = 32
    """The rank."""
    alpha: PositiveInt = 16
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"
    """The modules that get an adapter."""


class PolicyConfig(Section):
    """The model to train."""

    name: str
    """"smollm2", a folder or a Hub repository; "local:" in front is optional."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """The type of the weights; by default float32 for full fine-tuning, else the device's fastest."""
    lora: LoraSection | None = Field(default_factory=LoraSection)
    """null for full fine-tuning."""
    quantize: Literal["4bit"] | None = None
    """"4bit" is QLoRA, which needs bitsandbytes and a GPU."""
    chat_template: str | None = None
    """A file with a template to use instead of the tokenizer's."""

    @model_validator(mode="after")
    def _complete(self) -> "PolicyConfig":
        if self.quantize and self.lora is None:
            raise ValueError("quantize trains an adapter on a quantized model: it needs lora")
        return self


class DataConfig(Section):
    """The data to train on, either `runs` or a `dataset`."""

    runs: list[str] = Field(default_factory=list)
    """Run directories, or datasets in a published form."""
    dataset: str | None = None
    """A dataset made by `collab-agents dataset`."""
    eval_share: float = Field(default=0.0, ge=0, lt=1)
    """The share of tasks that are held out, in [0, 1)."""
    seed: int = 0
    lower_bounds: dict[str, float] = Field(default_factory=dict)
    """For SFT: the lowest score of a conversation, by judge."""
    best_share: float = Field(default=1.0, gt=0, le=1)
    """For SFT: the share of the tasks to learn from, those whose conversations have the highest rewards."""
    minimum_gap: float = Field(default=0.0, ge=0)
    """For preferences: the smallest difference in reward of a pair."""
    minimum_probability: float = Field(default=0.0, ge=0, lt=1)
    """For preferences: the smallest probability that a pair's chosen reply is better; it takes two futures or more."""
    pairs: Literal["best_worst", "all"] = "best_worst"
    """For preferences: the pairs made from each turn."""
    system_prompt: str | None = None
    """Put before every conversation that has none."""

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        if bool(self.runs) == (self.dataset is not None):
            raise ValueError("give either runs (run directories) or dataset (made before)")
        return self


class EvaluationConfig(Section):
    """Held-out conversations that the model in training plays, and by which the best step is chosen."""

    config: str | dict[str, Any]
    """An `eval.yaml`, relative to the training's file, or its sections. The model of its assistant is set."""
    every: PositiveInt = 50
    """Steps from one evaluation to the next. There is also one before the first step, and one after the last."""
    patience: PositiveInt | None = None
    """The training ends after so many evaluations in turn without a better reward; null never ends it."""
    load_best: bool = True
    """Whether the model at the end is that of the best step instead of the last one."""
    repeats: PositiveInt = 1
    """How often each task is played."""
    batch_size: PositiveInt = 32
    """Replies that are generated together."""
    conversations: NonNegativeInt = 2
    """The conversations of each set of tasks that the loggers get as text."""


class OfflineConfig(Section):
    """`train.yaml` for `sft` and `dpo`."""

    model: PolicyConfig
    data: DataConfig
    evaluation: EvaluationConfig | None = None
    trainer: dict[str, Any] = Field(default_factory=dict)


class PromptsConfig(Section):
    """The prompts for online training, from one of `tasks`, `runs` and `dataset`."""

    tasks: TasksConfig | None = None
    """Tasks whose users' first messages are the prompts."""
    runs: list[str] = Field(default_factory=list)
    """Run directories, of which every turn is a prompt."""
    dataset: str | None = None
    """A dataset of prompts."""
    eval_share: float = Field(default=0.0, ge=0, lt=1)
    """The share of tasks that are held out, in [0, 1)."""
    seed: int = 0
    system_prompt: str | None = None
    """Put before every conversation that has none."""

    @model_validator(mode="after")
    def _one_source(self) -> "PromptsConfig":
        if (self.tasks is not None) + bool(self.runs) + (self.dataset is not None) != 1:
            raise ValueError("give one of tasks, runs and dataset")
        return self


class RewardConfig(Section):
    """The multiturn-aware reward: the simulated user, the judges and the futures."""

    user: UserConfig = Field(default_factory=AgendaUserConfig)
    judges: Judges = Field(min_length=1)
    futures: PositiveInt = SERVING.futures
    window: NonNegativeInt = SERVING.window
    drop_faulty: bool = SERVING.drop_faulty
    policy: Model | None = None
    """The assistant in the futures; null is the model in training, with its current weights, or the app with it."""
    temperature: PositiveFloat | None = None
    """The temperature of the model in training in the futures; by default the trainer's."""
    max_tokens: PositiveInt | None = None
    """The most tokens of a reply by the model in training in the futures; by default the trainer's."""
    batch_size: PositiveInt = 32
    """Replies of the model in training that are generated together."""
    max_concurrency: PositiveInt = 256
    """Replies scored at once."""
    max_staleness: NonNegativeInt = 0
    """With trainer.use_vllm: the most optimizer steps by which the weights of vLLM may be behind those in training when
    it plays futures. Older ones are synced first."""
    ray: RayOptions | None = None
    """Plays the futures in worker processes. It needs a `policy`."""
    limits: RunLimits = Field(default_factory=RunLimits)
    seed: int = 0


class SamplesConfig(Section):
    """What online training records of its samples, in samples.jsonl."""

    every: PositiveInt | None = None
    """Steps from one recorded step to the next; null is the trainer's logging_steps."""
    prompts: NonNegativeInt = 1
    """The prompts of a step, each with all its replies; 0 records nothing."""
    futures: NonNegativeInt = 1
    """The futures of a reply."""


class AppConfig(Section):
    """The app to train, whose chat model is `load_chat_model("policy")`."""

    app: str
    """"module:attribute", as in a `run.yaml`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The options of `GraphAssistant`, or the arguments of a class or function."""


class OnlineConfig(Section):
    """`train.yaml` for `ppo`, `grpo` and `online-dpo`."""

    model: PolicyConfig
    assistant: AppConfig | None = None
    """For `grpo`: the app in which the model is trained; null is the model alone."""
    data: PromptsConfig
    reward: RewardConfig
    samples: SamplesConfig = Field(default_factory=SamplesConfig)
    evaluation: EvaluationConfig | None = None
    trainer: dict[str, Any] = Field(default_factory=dict)
