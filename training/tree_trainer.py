"""GRPO on every turn of the tree: the turns in the futures join TRL's batches here, and only here.

TRL (1.16) prepares a fixed number of replies per step. The turns, whose number varies and whose prompts differ, would
not fit into these batches. So they follow them in micro-batches of the same size, each with a forward and a backward
pass of its own, and the peak memory is that of a batch. These private methods of GRPOTrainer are overridden:

- `_calculate_rewards` keeps all processes' rewards, from which the number of scored replies of each prompt is known.
- `_generate_and_score_completions` takes the turns from the reward function, and the log-probabilities they need.
- `_prepare_inputs` picks the turns that belong to the replies of a step, and lets a micro-batch of turns pass.
- `_compute_loss` gives such a micro-batch its weight.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import nn
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import pad, use_adapter

from collab_agents.errors import ConfigError
from collab_agents.training.calls import Call
from collab_agents.training.rewards import MultiturnRewardFunction
from collab_agents.training.tree import turns_of

_TRL = {one.name: one.default for one in fields(GRPOConfig)}


@dataclass
class TreeGRPOConfig(GRPOConfig):
    """TRL's GRPOConfig with the choice of the turns that learn."""

    learn: Literal["reply", "tree"] = field(default="reply")
    """"reply" trains on the sampled replies, "tree" also on the policy's own turns in their futures."""
    loss_type: str | None = field(default=None)
    """As in TRL; "dr_grpo" for trees."""
    scale_rewards: str | None = field(default=None)
    """As in TRL; "none" for trees."""

    def __post_init__(self) -> None:
        tree = self.learn == "tree"
        needed: dict[str, object] = {"loss_type": "dr_grpo", "scale_rewards": "none"}
        for name, value in needed.items():
            if getattr(self, name) is None:
                setattr(self, name, value if tree else _TRL[name])
        super().__post_init__()
        if not tree:
            return
        needed |= {"multi_objective_aggregation": "sum_then_normalize", "use_vllm": False}
        for name, value in needed.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} must be {value!r} with learn: tree, got {getattr(self, name)!r}")


@dataclass
class _Row:
    """A turn to learn from, with its log-probabilities where the loss needs them."""

    reply: int
    call: Call
    advantage: float
    learnt: int = 1
    old: torch.Tensor | None = None
    reference: torch.Tensor | None = None


class _Turns(dict[str, Any]):
    """A micro-batch of turns, in the form of TRL's batches, with its `share` of the step's loss."""


class TreeGRPOTrainer(GRPOTrainer):
    """TRL's GRPOTrainer, which with `learn: tree` learns from the policy's turns in the futures too.

    `tree/turns` is the number of turns that a generation batch teaches, and `tree/calls` the number of calls of the
    model in training that it took.

    Raises:
        ConfigError: With `learn: tree`, if the reward function does not play such turns, or with DeepSpeed.
    """

    args: TreeGRPOConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._played = [
            (index, one)
            for index, one in enumerate(self.reward_funcs)
            if isinstance(one, MultiturnRewardFunction) and one.needs_policy
        ]
        self._rows: list[_Row] = []
        self._following: list[_Turns] = []
        self._scored = torch.zeros(0, dtype=torch.bool)
        if self.args.learn == "tree":
            self._check()

    def _check(self) -> None:
        if len(self._played) != 1:
            raise ConfigError(
                "trainer.learn: tree needs one multiturn-aware reward whose futures the model in training plays, got "
                f"{len(self._played)}: leave reward.policy out, or choose learn: reply"
            )
        if self.is_deepspeed_enabled:
            raise ConfigError("trainer.learn: tree does not run with DeepSpeed: choose DDP, or learn: reply")
        ((_, one),) = self._played
        if one.lookahead.futures < 2 or one.lookahead.window < 1:
            raise ConfigError(
                "trainer.learn: tree compares the futures of a reply: reward.futures must be at least 2 and "
                f"reward.window at least 1, got {one.lookahead.futures} and {one.lookahead.window}"
            )
        if one.temperature != self.args.temperature:
            raise ConfigError(
                "trainer.learn: tree samples replies and futures from one policy: reward.temperature must be "
                f"trainer.temperature ({self.args.temperature}), got {one.temperature}"
            )

    def _calculate_rewards(self, inputs: Sequence[Mapping[str, object]], *args: Any, **kwargs: Any) -> torch.Tensor:
        per_function: torch.Tensor = super()._calculate_rewards(inputs, *args, **kwargs)
        self._scored = ~per_function.isnan().all(dim=1)  # of all processes
        return per_function

    def _generate_and_score_completions(self, inputs: Sequence[Mapping[str, object]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return output
        start = self.accelerator.process_index * len(inputs)
        own = slice(start, start + len(inputs))
        if self.args.learn == "tree":
            groups = self._scored.view(-1, self.num_generations).sum(dim=1)
            # TRL's mean includes the own reply.
            alone = (groups / (groups - 1).clamp(min=1)).repeat_interleave(self.num_generations)
            output["advantages"] = output["advantages"] * alone[own]
            output["reply"] = torch.arange(len(inputs), device=self.accelerator.device)
            self._rows = self._learnt_rows()
            self._add_log_probabilities(old="old_per_token_logps" in output)
        self._log_sizes(int(self._scored[own].sum()), len(inputs))
        return output

    def _learnt_rows(self) -> list[_Row]:
        """Return the turns in the futures of the replies just scored."""
        return [
            _Row(turn.reply, turn.call, self.reward_weights[index].item() * turn.advantage)
            for index, reward in self._played
            for turn in turns_of(reward.last)
            if not self.mask_truncated_completions or turn.call.completion[-1] in self.eos_token_ids
        ]

    def _add_log_probabilities(self, *, old: bool) -> None:
        """Give the rows what TRL gives the replies: the reference's log-probabilities, and if needed their own."""
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            for rows in self._micro_batches(self._rows):
                if old:
                    for row, values in zip(rows, self._log_probabilities(self.model, rows), strict=True):
                        row.old = values
                if self.beta == 0.0:
                    continue
                if self.ref_model is not None:
                    references = self._log_probabilities(self.ref_model, rows)
                else:
                    model = self.accelerator.unwrap_model(self.model)
                    with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
                        references = self._log_probabilities(self.model, rows)
                for row, values in zip(rows, references, strict=True):
                    row.reference = values

    def _log_probabilities(self, model: nn.Module, rows: Sequence[_Row]) -> list[torch.Tensor]:
        batch = self._collated(rows)
        logps, _, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
            batch["completion_ids"].shape[1],
        )
        return [values[: len(row.call.completion)] for row, values in zip(rows, logps, strict=True)]

    def _log_sizes(self, scored: int, replies: int) -> None:
        if not self._played:
            return
        calls = replies + sum(one.made for _, reward in self._played for one in reward.last)
        rows = len(self._rows) if self.args.learn == "tree" else 0
        sizes = torch.tensor([[scored + rows, calls]], device=self.accelerator.device)
        turns, made = self.accelerator.gather(sizes).sum(dim=0).tolist()
        self._metrics["train"]["tree/turns"].append(turns)
        self._metrics["train"]["tree/calls"].append(made)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if isinstance(generation_batch, _Turns):
            return generation_batch
        inputs = super()._prepare_inputs(generation_batch)
        if "reply" in inputs:
            replies = inputs["reply"].tolist()
            self._following = self._after(replies)
        return inputs

    def _after(self, replies: list[int]) -> list[_Turns]:
        """Return the turns that follow these replies, in micro-batches that are as many and as large on every process."""
        kept = set(replies)
        parts = list(self._micro_batches([row for row in self._rows if row.reply in kept]))
        if self.accelerator.num_processes > 1:
            count = torch.tensor([len(parts)], device=self.accelerator.device)
            parts += [[] for _ in range(int(self.accelerator.gather(count).max()) - len(parts))]
            size = self.args.per_device_train_batch_size
            parts = [[*part, *[self._empty()] * (size - len(part))] for part in parts]
        return [self._collated(rows, replies=len(replies)) for rows in parts]

    def _micro_batches(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        size = self.args.per_device_train_batch_size
        ordered = sorted(rows, key=lambda row: len(row.call.prompt) + len(row.call.completion))
        for start in range(0, len(ordered), size):
            yield ordered[start : start + size]

    def _empty(self) -> _Row:
        """Return a row that teaches nothing, for a process that has fewer turns than another."""
        nothing = torch.zeros(1, device=self.accelerator.device)
        call = Call([self._tokenizer.pad_token_id], [self._tokenizer.pad_token_id])
        return _Row(0, call, 0.0, learnt=0, old=nothing, reference=nothing)

    def _collated(self, rows: Sequence[_Row], *, replies: int = 1) -> _Turns:
        """Return the rows as a batch, whose share is such that TRL's mean over rows becomes one over replies."""
        device = self.accelerator.device

        def padded(values: Sequence[Any], side: str, value: float = 0) -> torch.Tensor:
            tensors = [torch.as_tensor(one, device=device) for one in values]
            result: torch.Tensor = pad(
                tensors, padding_value=value, padding_side=side, pad_to_multiple_of=self.pad_to_multiple_of
            )
            return result

        prompts = [row.call.prompt for row in rows]
        completions = [row.call.completion for row in rows]
        empty = self._tokenizer.pad_token_id
        batch = _Turns(
            prompt_ids=padded(prompts, "left", empty),
            prompt_mask=padded([[1] * len(one) for one in prompts], "left"),
            completion_ids=padded(completions, "right", empty),
            completion_mask=padded([[1] * len(one) for one in completions], "right"),
            tool_mask=padded([[row.learnt] * len(row.call.completion) for row in rows], "right"),
            advantages=torch.tensor([row.advantage for row in rows], device=device),
            share=len(rows) / (replies * self._played[0][1].lookahead.futures),
        )
        for name, values in (
            ("old_per_token_logps", [row.old for row in rows]),
            ("ref_per_token_logps", [row.reference for row in rows]),
        ):
            if all(one is not None for one in values):
                batch[name] = padded(values, "right")
        return batch

    def _compute_loss(self, model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
        loss: torch.Tensor = super()._compute_loss(model, inputs) * inputs.get("share", 1.0)
        return loss

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        following, self._following = self._following, []
        for turns in following:
            loss = loss + Trainer.training_step(self, model, turns, num_items_in_batch)
        return loss
