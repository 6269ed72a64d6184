"""Supervised fine-tuning on the best conversations."""

import logging
from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset, DatasetDict
from trl import SFTConfig, SFTTrainer

from collab_agents.errors import ConfigError
from collab_agents.training.config import PolicyConfig
from collab_agents.training.conversations import IGNORED, labelled
from collab_agents.training.evaluation import HeldOutEvaluation
from collab_agents.training.fit import building, claim, fit
from collab_agents.training.policy import Policy, fitting, load_policy

logger = logging.getLogger(__name__)


def train_sft(
    model: PolicyConfig,
    data: DatasetDict,
    out: str | Path,
    *,
    trainer: Mapping[str, object] | None = None,
    evaluation: HeldOutEvaluation | None = None,
    resume: bool = False,
    settings: Mapping[str, object] | None = None,
) -> dict[str, float]:
    """Train on the column `messages` with TRL's SFTTrainer; only the assistant's tokens are learnt.

    Conversations longer than `max_length` or the model's context are left out and counted, never cut.

    Args:
        model: The model to train.
        data: The splits `train` and optionally `eval`.
        out: The folder for the model, its checkpoints, logs and card.
        trainer: Keys of TRL's SFTConfig.
        evaluation: Held-out conversations to play while it trains.
        resume: Whether to continue from the last checkpoint in `out`.
        settings: More settings to keep in training.json, and to compare when the training is resumed.

    Returns:
        The last value of everything logged.

    Raises:
        ConfigError: For a wrong argument, or data or a model that cannot be used.
        RunDirectoryError: If `out` is in use, or was made with other settings.
        DivergedError: If the loss becomes NaN or infinite.

    Example:
        data = split_by_task(sft_rows(read_all(["runs/first"])).dataset(), eval_share=0.1)
        logs = train_sft(PolicyConfig(name="smollm2"), data, "tuned", trainer={"num_train_epochs": 1})
    """
    args = claim("sft", SFTConfig, model, out, trainer=trainer, resume=resume, settings=settings, evaluation=evaluation)
    policy = load_policy(model)
    sets = {split: _prepared(policy, rows, args, split) for split, rows in data.items()}
    with building(args):
        learner = SFTTrainer(
            model=policy.model,
            args=args,
            train_dataset=sets["train"],
            eval_dataset=sets.get("eval"),
            processing_class=policy.tokenizer,
            peft_config=policy.peft,
        )
    return fit(learner, out, resume=resume, evaluation=evaluation)


def _prepared(policy: Policy, rows: Dataset, args: SFTConfig, split: str) -> Dataset:
    coded = Dataset.from_list([labelled(policy.tokenizer, row["messages"]) for row in rows])
    taught = [i for i, row in enumerate(coded) if any(label != IGNORED for label in row["labels"])]
    if len(taught) < len(coded):
        logger.warning(
            "%s: %d conversations have no assistant tokens and are left out", split, len(coded) - len(taught)
        )
    if not taught:
        raise ConfigError(f"none of the {len(coded)} {split} conversations has an assistant message to learn from")
    return fitting(
        coded.select(taught),
        lambda row: len(row["input_ids"]),
        min(policy.context, args.max_length or policy.context),
        what=f"{split} conversations",
        remedy="raise trainer.max_length if the model's context allows it, or generate shorter ones",
    )
