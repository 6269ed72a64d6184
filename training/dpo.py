"""Direct preference optimization on pairs of replies with different multiturn-aware rewards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from trl import DPOConfig, DPOTrainer

from collab_agents.training.config import PolicyConfig
from collab_agents.training.evaluation import HeldOutEvaluation
from collab_agents.training.fit import building, claim, fit
from collab_agents.training.policy import Policy, fitting, load_policy, tokens, without_nulls


def train_dpo(
    model: PolicyConfig,
    data: DatasetDict,
    out: str | Path,
    *,
    trainer: Mapping[str, object] | None = None,
    evaluation: HeldOutEvaluation | None = None,
    resume: bool = False,
    settings: Mapping[str, object] | None = None,
) -> dict[str, float]:
    """Train on the columns `prompt`, `chosen` and `rejected` with TRL's DPOTrainer.

    The reference is the model without its adapter or, for full fine-tuning, the initial model. The arguments not
    listed here, and everything else, are as for `train_sft`.

    Args:
        model: The model to train.
        data: The splits `train` and optionally `eval`.
        out: The folder to write.
        trainer: Keys of TRL's DPOConfig.
        evaluation: Held-out conversations to play while it trains.
        resume: Whether to continue from the last checkpoint in `out`.
        settings: More settings to keep in training.json.
    """
    args = claim("dpo", DPOConfig, model, out, trainer=trainer, resume=resume, settings=settings, evaluation=evaluation)
    policy = load_policy(model)
    sets = {split: _prepared(policy, rows, args, split) for split, rows in data.items()}
    with building(args):
        learner = DPOTrainer(
            model=policy.model,
            args=args,
            train_dataset=sets["train"],
            eval_dataset=sets.get("eval"),
            processing_class=policy.tokenizer,
            peft_config=policy.peft,
        )
    return fit(learner, out, resume=resume, evaluation=evaluation)


def _prepared(policy: Policy, rows: Dataset, args: DPOConfig, split: str) -> Dataset:
    def length(row: dict[str, Any]) -> int:
        return max(len(tokens(policy.tokenizer, [*row["prompt"], *row[side]])) for side in ("chosen", "rejected"))

    return fitting(
        without_nulls(rows.select_columns(["prompt", "chosen", "rejected"]), "prompt", "chosen", "rejected"),
        length,
        min(policy.context, args.max_length or policy.context),
        what=f"{split} pairs",
        remedy="raise trainer.max_length if the model's context allows it, or generate shorter ones",
    )
