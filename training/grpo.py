"""GRPO with the multiturn-aware reward."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import DatasetDict

from collab_agents.assistants import Assistant
from collab_agents.training.app_trainer import AppGRPOConfig, AppGRPOTrainer
from collab_agents.training.config import PolicyConfig, SamplesConfig
from collab_agents.training.evaluation import HeldOutEvaluation
from collab_agents.training.online import RewardFunction, train_online
from collab_agents.training.tree_trainer import TreeGRPOConfig, TreeGRPOTrainer


def train_grpo(
    model: PolicyConfig,
    data: DatasetDict,
    reward: RewardFunction | Sequence[RewardFunction],
    out: str | Path,
    *,
    trainer: Mapping[str, object] | None = None,
    samples: SamplesConfig | None = None,
    evaluation: HeldOutEvaluation | None = None,
    app: Assistant | None = None,
    resume: bool = False,
    settings: Mapping[str, object] | None = None,
) -> dict[str, float]:
    """Train on the column `prompt`, and the columns that the reward reads, with TRL's GRPOTrainer.

    Prompts that leave no room for `max_completion_length` in the model's context are left out and counted. The
    arguments not listed here, and everything else, are as for `train_sft`.

    With an `app`, a turn of the app takes the place of a reply, and every call of the model in training in it learns
    from the turn's advantage. The calls are sampled at the trainer's temperature, with at most
    `max_completion_length` tokens each. Sums are divided by constants only (`loss_type: dr_grpo`, `scale_rewards:
    none`). A turn in which the app fails gets no reward.

    Args:
        model: The model to train.
        data: The splits `train` and optionally `eval`, such as those of `prompt_rows`.
        reward: A `MultiturnRewardFunction`, any other TRL reward function, or several.
        out: The folder to write.
        trainer: Keys of `TreeGRPOConfig`: TRL's GRPOConfig, `learn`, `use_openvino` and `openvino_cache_gb`.
        samples: What to record in samples.jsonl of the replies that a `MultiturnRewardFunction` scored.
        evaluation: Held-out conversations to play while it trains.
        app: An assistant whose chat model is `load_chat_model("policy")`, such as a `GraphAssistant` with stand-ins for
            its tools. It also plays the futures of a `MultiturnRewardFunction`.
        resume: Whether to continue from the last checkpoint in `out`.
        settings: More settings to keep in training.json.

    Example:
        app = GraphAssistant(create_app(load_chat_model("policy")), simulate_tools={"cancel": "it is cancelled"})
        train_grpo(PolicyConfig(name="smollm2"), data, rewards, "tuned", app=app)
    """
    return train_online(
        "grpo",
        TreeGRPOTrainer if app is None else AppGRPOTrainer,
        TreeGRPOConfig if app is None else AppGRPOConfig,
        model,
        data,
        reward,
        out,
        trainer=trainer,
        samples=samples,
        evaluation=evaluation,
        app=app,
        resume=resume,
        settings=settings,
    )
