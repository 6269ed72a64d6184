"""What the online trainers share: selecting prompts that fit, binding the reward to the model, and training."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict
from transformers import Trainer, TrainingArguments

from collab_agents.assistants import Assistant
from collab_agents.errors import ConfigError
from collab_agents.humans import check_simulated
from collab_agents.training.answering import check_whole
from collab_agents.training.config import PolicyConfig, SamplesConfig
from collab_agents.training.evaluation import HeldOutEvaluation
from collab_agents.training.fit import building, claim, fit
from collab_agents.training.policy import Policy, fitting, load_policy, tokens, without_nulls
from collab_agents.training.recorder import record_samples
from collab_agents.training.rewards import MultiturnRewardFunction
from collab_agents.training.turns import AppRollouts, TrainedApp, check_prompts

logger = logging.getLogger(__name__)

RewardFunction = Callable[..., Sequence[float | None] | Awaitable[Sequence[float | None]]]
"""A TRL reward function, sync or async: it returns a reward for each completion, or None."""


def train_online(
    method: str,
    trainer_class: type[Trainer],
    shape: type[TrainingArguments],
    model: PolicyConfig,
    data: DatasetDict,
    reward: RewardFunction | Sequence[RewardFunction],
    out: str | Path,
    *,
    trainer: Mapping[str, object] | None,
    samples: SamplesConfig | None = None,
    evaluation: HeldOutEvaluation | None = None,
    app: Assistant | None = None,
    resume: bool,
    settings: Mapping[str, object] | None,
) -> dict[str, float]:
    """Train as described in `train_grpo`; `shape` is the trainer's configuration class."""
    args = claim(method, shape, model, out, trainer=trainer, resume=resume, settings=settings, evaluation=evaluation)
    policy = load_policy(model)
    sets = {split: _fitting(policy, rows, args, split) for split, rows in data.items()}
    rewards = list(reward) if isinstance(reward, Sequence) else [reward]
    _check_count(len(sets["train"]), args)
    multiturn = [one for one in rewards if isinstance(one, MultiturnRewardFunction)]
    rollouts = None
    if app is not None:
        rollouts = _rollouts(app, multiturn)
        for rows in sets.values():
            check_prompts(rows)
    with building(args):
        learner = trainer_class(
            model=policy.model,
            reward_funcs=rewards,
            args=args,
            train_dataset=sets["train"],
            eval_dataset=sets.get("eval"),
            processing_class=policy.tokenizer,
            peft_config=policy.peft,
            **({} if rollouts is None else {"rollout_func": rollouts}),
        )
    player = getattr(learner, "player", None)
    if rollouts is not None and player is not None:
        rollouts.bind_engine(player.engine)
    elif rollouts is not None:
        _bind(rollouts, learner, "app", "its turns", "train a chat model, or choose DDP")
    for one in multiturn:
        if one.needs_policy and player is None:  # Otherwise the trainer did.
            served = (
                "set trainer.use_vllm, or serve a copy and name it, as in reward.policy: {name: 'openai:MODEL', "
                "base_url: URL}"
            )
            _bind(one, learner, "reward.policy", "the futures", served)
    samples = samples or SamplesConfig()
    if multiturn and samples.prompts:
        record_samples(learner, multiturn[0], samples)
    return fit(learner, out, resume=resume, evaluation=evaluation)


def _rollouts(app: Assistant, rewards: Sequence[MultiturnRewardFunction]) -> AppRollouts:
    check_simulated(app, instead="train an app")
    rollouts = AppRollouts(TrainedApp(app))
    for one in rewards:
        if not one.needs_policy:
            raise ConfigError("reward.policy: the app that is trained plays the futures of its turns: leave it out")
        one.app = rollouts.app
        rollouts.batch_size, rollouts.max_concurrency = one.batch_size, one.max_concurrency
    return rollouts


def _bind(player: AppRollouts | MultiturnRewardFunction, learner: Trainer, field: str, what: str, instead: str) -> None:
    check_whole(learner, field, what, instead)
    player.bind(learner.accelerator.unwrap_model(learner.model), learner.processing_class)


def _check_count(prompts: int, args: TrainingArguments) -> None:
    """Check that there are enough prompts: GRPO's sampler drops those that do not fill a generation batch."""
    batch = getattr(args, "generation_batch_size", None)
    if batch is None:
        return
    needed = batch // args.num_generations
    if prompts < needed:
        raise ConfigError(
            f"there are {prompts} prompts, and one generation batch takes {needed} (generation_batch_size {batch} / "
            f"num_generations {args.num_generations}): give more prompts, or lower trainer.generation_batch_size, "
            "trainer.per_device_train_batch_size or trainer.gradient_accumulation_steps"
        )
    if left := prompts % needed:
        logger.warning(
            "in each epoch %d of the %d prompts, drawn again each time, are left out: a generation batch takes %d",
            left,
            prompts,
            needed,
        )


def _fitting(policy: Policy, rows: Dataset, args: TrainingArguments, split: str) -> Dataset:
    new = int(getattr(args, "max_completion_length", None) or getattr(args, "max_new_tokens", None) or 0)
    whole = min(policy.context, getattr(args, "max_length", None) or policy.context)
    return fitting(
        without_nulls(rows, "prompt"),
        lambda row: len(tokens(policy.tokenizer, row["prompt"], prompt=True)),
        whole - new,
        what=f"{split} prompts",
        remedy=f"with {new} new tokens they have to fit into {whole}: shorten them, or ask for fewer new tokens",
    )
