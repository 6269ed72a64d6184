"""Proximal policy optimization (Schulman et al., arXiv 1707.06347) with a value head on the policy's own backbone.

TRL removed its PPO trainer (huggingface/trl#7020). This one builds on GRPOTrainer, which provides sampling, rewards,
old and reference log-probabilities, the clipped policy loss and several epochs per rollout, and whose loss accepts
one advantage per token. How a batch is changed between generation and loss is in tree_trainer.py.

What is private and used here, because nothing public does it:

- `Trainer._save`, `_load_from_checkpoint` and `_load_best_model` (transformers) keep the value head in a file beside
  the model.
- `VLLMGeneration._iter_named_params` (TRL 1.16) leaves out the value head, which vLLM does not know.
- `_name` is what the cards of checkpoints call the method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from safetensors.torch import load_file, save_file
from torch import nn

from collab_agents.graphs.futures import rewards_of
from collab_agents.rewards import mean
from collab_agents.training.advantages import at_the_end, generalized_advantages, moments_of, whitened
from collab_agents.training.config import PolicyConfig, SamplesConfig
from collab_agents.training.evaluation import HeldOutEvaluation
from collab_agents.training.online import RewardFunction, train_online
from collab_agents.training.tree_trainer import Row, TreeGRPOConfig, TreeGRPOTrainer

VALUE_HEAD = "value_head.safetensors"


@dataclass
class PPOConfig(TreeGRPOConfig):
    """TRL's GRPOConfig with the options that PPO adds, and `learn`.

    `epsilon` is PPO's clip range.
    """

    num_generations: int | None = field(default=2)
    num_iterations: int = field(default=4)
    """PPO's epochs per rollout."""
    beta: float = field(default=0.04)
    """The weight of the KL to the reference (the model without its adapter, or the initial model)."""
    gamma: float = field(default=1.0)
    """The discount factor of the generalized advantage estimation, in [0, 1]."""
    lam: float = field(default=0.95)
    """The lambda of the generalized advantage estimation, in [0, 1]."""
    vf_coef: float = field(default=0.1)
    """The weight of the value loss."""
    cliprange_value: float = field(default=0.2)
    """How far a value may move from the rollout's."""
    value_warmup_steps: int = field(default=0)
    """Optimizer steps in which only the value head learns."""
    whiten_advantages: bool = field(default=True)
    """Whether advantages are scaled to mean 0 and variance 1 over a rollout."""
    # The values are not part of the forward pass's output, so DDP would not find them used.
    ddp_find_unused_parameters: bool | None = field(default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        for name in ("vf_coef", "cliprange_value", "value_warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


class PPOTrainer(TreeGRPOTrainer):
    """A PPO trainer with GRPOTrainer's arguments, where `args` is a PPOConfig.

    A reply without a reward changes neither the policy nor the values.

    With `learn: tree`, the estimation of advantages goes on from turn to turn: what follows the last token of a turn is
    the first token of the next one in the same future, or the future's reward. After a reply it is the mean over its
    futures.
    """

    _name = "PPO"
    compares_futures = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        model = self.accelerator.unwrap_model(self.model)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        # Zero at first: the first advantages are the rewards themselves.
        head = nn.Linear(base.config.get_text_config().hidden_size, 1, dtype=torch.float32, device=base.device)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        model.value_head = head
        self._head = head
        self._seen: list[torch.Tensor] | None = None
        # Inside the forward pass, so that wrappers of the model see that the head is used.
        base.base_model.register_forward_hook(self._value_of)
        if self.args.use_vllm:  # vLLM does not know the head's weights.
            every = self.vllm_generation._iter_named_params
            self.vllm_generation._iter_named_params = lambda: (
                (name, weight) for name, weight in every() if not name.startswith("value_head.")
            )

    def _value_of(self, module: nn.Module, inputs: object, output: Any) -> None:
        if self._seen is None:
            return
        hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state
        if self._warming_up():
            hidden = hidden.detach()
        with torch.autocast(hidden.device.type, enabled=False):
            self._seen.append(self._head(hidden.to(self._head.weight.dtype)).squeeze(-1).float())

    def _values(self, length: int) -> torch.Tensor:
        """Return the values (B, T) before each of the last tokens, from the forward passes since `_seen = []`."""
        if not self._seen:
            raise RuntimeError("the policy's backbone was not called: this version of TRL does not fit PPOTrainer")
        values = torch.cat(self._seen)
        self._seen = None
        return values[:, -length - 1 : -1]

    def _warming_up(self) -> bool:
        return self.state.global_step < self.args.value_warmup_steps

    def rolled_out(self, output: dict[str, Any], own: slice) -> None:
        super().rolled_out(output, own)
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        with torch.no_grad():
            self._seen = []
            logps = self.log_probabilities(self.model, output)
            values = self._values(mask.shape[1])
        output.setdefault("old_per_token_logps", logps)
        rewards = self.rewards[own]
        scored = ~rewards.isnan().all(dim=1)
        ends = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1).float()
        rows = self.rows if "reply" in output else []
        if rows:
            ends = self._credit_turns(ends)
        final = at_the_end(ends, mask)
        advantages, returns = generalized_advantages(final, values, mask, gamma=self.args.gamma, lam=self.args.lam)
        learnt = mask * scored[:, None]
        if self.args.whiten_advantages:
            moments = moments_of(advantages, learnt)
            for row in rows:
                turn = moments_of(row.columns["advantages"], row.columns["value_mask"])
                moments = moments + turn / self.played[0][1].lookahead.futures
            moments = self.accelerator.reduce(moments, reduction="sum")
            advantages = whitened(advantages, learnt, moments)
            for row in rows:
                row.columns["advantages"] = whitened(row.columns["advantages"], row.columns["value_mask"], moments)
        output |= {
            "advantages": advantages * learnt,
            "returns": returns,
            "old_values": values,
            "value_mask": learnt,
            "tool_mask": learnt,  # So that a reply without a reward has no KL term either.
            "num_items_in_batch": self.accelerator.gather(learnt.sum()).sum(),
        }

    def add_log_probabilities(self) -> None:
        super().add_log_probabilities()
        self.columns = list({*self.columns, "old_per_token_logps", "returns", "old_values", "value_mask"})
        with torch.no_grad():
            for rows in self.micro_batches(self.rows):
                self._seen = []
                logps = self.log_probabilities(self.model, self.collated(rows))
                self.fill(rows, "old_per_token_logps", logps)
                self.fill(rows, "old_values", self._values(logps.shape[1]))

    def _credit_turns(self, rewards: torch.Tensor) -> torch.Tensor:
        """Give the turns their advantages and returns, and return the rewards (B,) with what follows each reply."""
        ((index, function),) = self.played
        weight = self.reward_weights[index].item()
        turns: dict[tuple[int, int | None], list[Row]] = {}
        for row in self.rows:
            turns.setdefault((row.reply, row.future), []).append(row)
        ends = rewards.clone()
        for reply, one in enumerate(function.last):
            worth = []
            for future, reward in enumerate(rewards_of(one.result.get("futures", []))):
                if reward is None:
                    continue
                after = weight * reward
                for row in reversed(turns.get((reply, future), [])):
                    after = self._credit(row, after)
                worth.append(after)
            if (average := mean(worth)) is not None:
                ends[reply] += average - weight * one.result["reward"]
        return ends

    def _credit(self, row: Row, end: float) -> float:
        """Give a turn that ends with a reward its advantages and returns, and return what it is worth before it."""
        values = row.columns["old_values"][None]
        mask = torch.ones_like(values)
        rewards = at_the_end(torch.tensor([end], device=values.device), mask)
        gamma, lam = self.args.gamma, self.args.lam
        advantages, returns = generalized_advantages(rewards, values, mask, gamma=gamma, lam=lam)
        row.columns |= {"advantages": advantages[0], "returns": returns[0], "value_mask": mask[0] * row.learnt}
        return float(gamma * (values[0, 0] + lam * advantages[0, 0]))

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        self._seen = []
        policy_loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        values = self._values(inputs["returns"].shape[1])
        returns, old, mask = inputs["returns"], inputs["old_values"], inputs["value_mask"]
        near = old + (values - old).clamp(-self.args.cliprange_value, self.args.cliprange_value)
        squares = torch.max((values - returns) ** 2, (near - returns) ** 2)
        # With trees, the sum is divided by a constant, as that of the policy's loss is.
        count = mask.shape[0] * self.args.max_completion_length if self.on_trees else mask.sum().clamp(min=1)
        value_loss = 0.5 * (squares * mask).sum() / count * inputs.get("share", 1.0)
        self._note_values(values.detach(), returns, mask, value_loss.detach())
        accumulated = self.current_gradient_accumulation_steps if self.model.training else 1.0
        return policy_loss * (0.0 if self._warming_up() else 1.0) + self.args.vf_coef * value_loss / accumulated

    def _note_values(self, values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, loss: torch.Tensor) -> None:
        of_returns, of_errors = moments_of(returns, mask), moments_of(returns - values, mask)
        sums = self.accelerator.reduce(torch.stack([of_returns, of_errors]), reduction="sum")
        means = sums[:, 1] / sums[:, 0].clamp(min=1)
        spread, missed = (sums[:, 2] / sums[:, 0].clamp(min=1) - means**2).tolist()
        self.note("value_loss", self.accelerator.gather(loss).mean().item())
        self.note("value/returns_mean", means[0].item())
        self.note("value/values_mean", (means[0] - means[1]).item())
        if spread > 1e-8:
            self.note("explained_variance", 1 - missed / spread)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Save the value head beside the model, so that the model can be loaded without it."""
        state_dict = self.model.state_dict() if state_dict is None else state_dict
        head = {name.rpartition("value_head.")[2]: value for name, value in state_dict.items() if "value_head." in name}
        super()._save(output_dir, {name: value for name, value in state_dict.items() if "value_head." not in name})
        if self.args.should_save:
            save_file(
                {name: value.contiguous() for name, value in head.items()},
                Path(output_dir or self.args.output_dir, VALUE_HEAD),
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_head(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_head(self.state.best_model_checkpoint)

    def _load_head(self, checkpoint: str) -> None:
        if not self.is_fsdp_enabled:  # FSDP's checkpoint includes the head.
            self._head.load_state_dict(load_file(Path(checkpoint, VALUE_HEAD)))


def train_ppo(
    model: PolicyConfig,
    data: DatasetDict,
    reward: RewardFunction | Sequence[RewardFunction],
    out: str | Path,
    *,
    trainer: Mapping[str, object] | None = None,
    samples: SamplesConfig | None = None,
    evaluation: HeldOutEvaluation | None = None,
    resume: bool = False,
    settings: Mapping[str, object] | None = None,
) -> dict[str, float]:
    """Train with proximal policy optimization (PPO).

    The arguments not listed here, and everything else, are as for `train_grpo`.

    Args:
        model: The model to train.
        data: The splits `train` and optionally `eval`.
        reward: A `MultiturnRewardFunction`, any other TRL reward function, or several.
        out: The folder to write.
        trainer: Keys of `PPOConfig`.
        samples: What to record in samples.jsonl of the replies that a `MultiturnRewardFunction` scored.
        evaluation: Held-out conversations to play while it trains.
        resume: Whether to continue from the last checkpoint in `out`.
        settings: More settings to keep in training.json.
    """
    return train_online(
        "ppo",
        PPOTrainer,
        PPOConfig,
        model,
        data,
        reward,
        out,
        trainer=trainer,
        samples=samples,
        evaluation=evaluation,
        resume=resume,
        settings=settings,
    )
