"""Fine-tune a language model as a reward model, whose hidden states a value model then reads."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from collab_agents.models.sources import loading
from collab_agents.training.arguments import trainer_arguments
from collab_agents.training.config import LoraSection
from collab_agents.training.datasets import preference_rows
from collab_agents.training.fit import building
from collab_agents.training.policy import lora_config, source_of, without_nulls
from collab_agents.trajectories import Trajectory


def train_reward_model(
    trajectories: Iterable[Trajectory],
    out: str | Path,
    *,
    model: str = "smollm2",
    lora: LoraSection | None = None,
    trainer: Mapping[str, object] | None = None,
) -> None:
    """Train a reward model on all pairs of a turn's replies with TRL's RewardTrainer, and save it in `out`.

    Its score is the logit of the Bradley-Terry model (Ouyang et al., 2022). An adapter is trained, and merged.

    Args:
        trajectories: Scored trajectories with two candidates a turn or more.
        out: The folder for the model and its tokenizer.
        model: "smollm2", a folder or a Hub repository.
        lora: The adapter; by default `LoraSection()`.
        trainer: Keys of TRL's RewardConfig.

    Raises:
        ConfigError: For a wrong key, a model that cannot be loaded, or trajectories without pairs.
    """
    pairs = preference_rows(trajectories, pairs="all").dataset().select_columns(["prompt", "chosen", "rejected"])
    source = source_of(model)
    with loading(f"model {model!r}"):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        classifier = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, trust_remote_code=False, weights_only=True
        )
    with TemporaryDirectory() as scratch:
        defaults = {"save_strategy": "no", "report_to": "none", "gradient_checkpointing": False}
        args = trainer_arguments(RewardConfig, defaults | dict(trainer or {}), scratch)
        with building(args):
            learner = RewardTrainer(
                model=classifier,
                args=args,
                train_dataset=without_nulls(pairs, "prompt", "chosen", "rejected"),
                processing_class=tokenizer,
                peft_config=lora_config(lora or LoraSection(), "SEQ_CLS"),
            )
        learner.train()
        learner.accelerator.unwrap_model(learner.model).merge_and_unload().save_pretrained(out)
    tokenizer.save_pretrained(out)
