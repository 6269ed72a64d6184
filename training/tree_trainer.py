"""GRPO on every turn of the tree: the turns in the futures join TRL's batches here, and only here.

TRL (1.16) prepares a fixed number of replies per step. The turns, whose number varies and whose prompts differ, would
not fit into these batches. So they follow them in micro-batches of the same size, each with a forward and a backward
pass of its own, and the peak memory is that of a batch. The further calls of an app's turns follow in the same way.

Four private methods of GRPOTrainer are used, here and nowhere else, because TRL has no public way to act between
generation and loss. PPOTrainer builds on what they give.

- `_generate` is overridden to begin the futures that are played elsewhere. TRL computes log-probabilities meanwhile.
- `_calculate_rewards` is overridden to keep all processes' rewards: reward functions see those of one. vLLM is awake
  meanwhile.
- `_generate_and_score_completions` is overridden to hand its batch to `rolled_out`.
- `_get_per_token_logps_and_entropies` is called for log-probabilities that are computed as TRL computes its own.

A batch is assumed to have the keys that the loss reads, see tests/training/test_trl.py.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from trl import GRPOConfig, GRPOTrainer

from collab_agents.errors import ConfigError
from collab_agents.training.calls import Call
from collab_agents.training.correction import importance_ratio
from collab_agents.training.players import check_openvino, player_of
from collab_agents.training.rewards import MultiturnRewardFunction
from collab_agents.training.rollouts import Rollouts
from collab_agents.training.tree import turns_of

_TRL = {one.name: one.default for one in fields(GRPOConfig)}
_PER_TOKEN = ("old_per_token_logps", "ref_per_token_logps", "sampling_per_token_logps", "importance_sampling_ratio")
"""What a batch may have beside advantages. The last two are of tokens that vLLM sampled."""


@dataclass
class TreeGRPOConfig(GRPOConfig):
    """TRL's GRPOConfig with the choice of the turns that learn."""

    learn: Literal["reply", "tree"] = field(default="reply")
    """"reply" trains on the sampled replies, "tree" also on the policy's own turns in their futures."""
    loss_type: str | None = field(default=None)
    """As in TRL; "dr_grpo" for trees."""
    scale_rewards: str | None = field(default=None)
    """As in TRL; "none" for trees."""
    use_openvino: bool = field(default=False)
    """Whether OpenVINO samples the replies and plays their futures. For training on a processor."""
    openvino_cache_gb: int = field(default=1)
    """Gigabytes for OpenVINO's keys and values of prompts and completions."""

    @property
    def with_rows(self) -> str | None:
        """Why further rows follow TRL's batch, so that sums are divided by constants only; None if none do."""
        return "learn: tree" if self.learn == "tree" else None

    def __post_init__(self) -> None:
        why = self.with_rows
        needed: dict[str, object] = {"loss_type": "dr_grpo", "scale_rewards": "none"}
        for name, value in needed.items():
            if getattr(self, name) is None:
                setattr(self, name, value if why else _TRL[name])
        super().__post_init__()
        if self.use_openvino:
            check_openvino(self)
        if not why:
            return
        needed["multi_objective_aggregation"] = "sum_then_normalize"
        for name, value in needed.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} must be {value!r} with {why}, got {getattr(self, name)!r}")


@dataclass
class Row:
    """A call to learn from, with what TRL's batches have for each token of a completion."""

    reply: int
    future: int | None
    """None if the call is part of the reply itself, which weighs as much as all its futures."""
    call: Call
    learnt: bool
    """False if it only takes a place, or was cut and `mask_truncated_completions` is set."""
    columns: dict[str, torch.Tensor] = field(default_factory=dict)


class _Turns(dict[str, Any]):
    """A micro-batch of turns, in the form of TRL's batches, with its `share` of the step's loss."""


class TreeGRPOTrainer(GRPOTrainer):
    """TRL's GRPOTrainer, which with `learn: tree` learns from the policy's turns in the futures too.

    With `use_vllm` or `use_openvino`, the engine that samples replies plays their futures too.

    `tree/turns` is the number of turns that a generation batch teaches, `tree/tokens` that of their tokens, and
    `tree/calls` the number of calls of the model in training that it took.

    Raises:
        ConfigError: With `learn: tree`, if the reward function does not play such turns, or with DeepSpeed or LOMO; and
            as for `TrainerVLLM` and `TrainerOpenVINO`.
    """

    args: TreeGRPOConfig
    compares_futures = True
    """Whether a turn needs another future of its reply to be compared with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_trees = self.args.learn == "tree"
        self.played = [
            (index, one)
            for index, one in enumerate(self.reward_funcs)
            if isinstance(one, MultiturnRewardFunction) and one.needs_policy
        ]
        self.rows: list[Row] = []
        self.columns = ["advantages"]
        """What the loss needs of every row."""
        self.rewards = torch.zeros(0)
        """The reward of every reply of all processes by every function, (B, F); NaN for none."""
        self._following: list[_Turns] = []
        self._noted: dict[bool, dict[str, list[float]]] = {True: defaultdict(list), False: defaultdict(list)}
        if self.args.with_rows:
            self._check(self.args.with_rows)
        if self.on_trees:
            self._check_trees()
        self.player = player_of(self, self.reward_funcs)
        if self.player is not None and self.player.samples:
            self.rollout_func: Any = self.rollout_func or Rollouts(self.player)
        self._elsewhere = [
            one
            for one in self.reward_funcs
            if isinstance(one, MultiturnRewardFunction)
            and (not one.needs_policy or (self.player is not None and self.player.served))
        ]
        """The reward functions whose futures are played without this process."""
        self._inputs: Sequence[Mapping[str, object]] = []

    def _check(self, why: str) -> None:
        if self.is_deepspeed_enabled:
            raise ConfigError(f"trainer: {why} does not run with DeepSpeed: choose DDP")
        if "lomo" in self.args.optim:  # It updates the weights in each backward pass.
            raise ConfigError(
                f"trainer: {why} does not run with trainer.optim: {self.args.optim.value}: choose another, such as "
                "adamw_torch"
            )

    def _check_trees(self) -> None:
        if len(self.played) != 1:
            raise ConfigError(
                "trainer.learn: tree needs one multiturn-aware reward whose futures the model in training plays, got "
                f"{len(self.played)}: leave reward.policy out, or choose learn: reply"
            )
        ((_, one),) = self.played
        if one.lookahead.window < 1:
            raise ConfigError(
                "trainer.learn: tree learns from turns in futures: reward.window must be at least 1, got 0"
            )
        if self.compares_futures and one.lookahead.futures < 2:
            raise ConfigError(
                "trainer.learn: tree compares the futures of a reply: reward.futures must be at least 2, got "
                f"{one.lookahead.futures}"
            )
        if one.temperature != self.args.temperature:
            raise ConfigError(
                "trainer.learn: tree samples replies and futures from one policy: reward.temperature must be "
                f"trainer.temperature ({self.args.temperature}), got {one.temperature}"
            )

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        generated: tuple[Any, ...] = super()._generate(prompts)
        if not self._elsewhere:
            return generated
        if self.player is not None:
            self.player.refresh()
        _, completion_ids, _, completions, *_ = generated
        names = [name for name in self._inputs[0] if name not in ("prompt", "completion", "completion_ids")]
        columns = {name: [row[name] for row in self._inputs] for name in names}
        for one in self._elsewhere:
            one.begin(self.async_loop, prompts, completions, completion_ids, trainer_state=self.state, **columns)
        return generated

    def _calculate_rewards(self, inputs: Sequence[Mapping[str, object]], *args: Any, **kwargs: Any) -> torch.Tensor:
        with self.player.ready() if self.player is not None else nullcontext():
            self.rewards = super()._calculate_rewards(inputs, *args, **kwargs)
        return self.rewards

    def _generate_and_score_completions(self, inputs: Sequence[Mapping[str, object]]) -> dict[str, Any]:
        self._inputs = inputs
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        start = self.accelerator.process_index * len(inputs)
        self.rolled_out(output, slice(start, start + len(inputs)))
        return output

    def rolled_out(self, output: dict[str, Any], own: slice) -> None:
        """Prepare the loss on new replies.

        Args:
            output: The batch, which is changed in place.
            own: Which of the replies of all processes it has.
        """
        if not self.model.training:
            return
        scored = ~self.rewards.isnan().all(dim=1)
        replies = own.stop - own.start
        if self.args.with_rows:
            groups = scored.view(-1, self.args.num_generations).sum(dim=1)
            # TRL's mean includes the own reply.
            alone = (groups / (groups - 1).clamp(min=1)).repeat_interleave(self.args.num_generations)
            output["advantages"] = output["advantages"] * alone[own]
            output["reply"] = torch.arange(replies, device=self.accelerator.device)
            self.rows = list(self.rows_after(output, scored[own]))
            self.columns = ["advantages", *(name for name in _PER_TOKEN if name in output)]
            self.add_log_probabilities()
        self._note_sizes(output, scored[own])

    def rows_after(self, output: Mapping[str, torch.Tensor], scored: torch.Tensor) -> Iterator[Row]:
        """Yield what is to be learnt besides the batch.

        Args:
            output: The batch.
            scored: Which of its replies have a reward.
        """
        if not self.on_trees:
            return
        ((index, reward),) = self.played
        for turn in turns_of(reward.last):
            if self.compares_futures and turn.advantage is None:
                continue
            yield self.row(turn.reply, turn.future, turn.call, self.reward_weights[index] * (turn.advantage or 0.0))

    def row(self, reply: int, future: int | None, call: Call, advantage: torch.Tensor) -> Row:
        """Return a call as a row whose tokens all have this advantage."""
        learnt = not self.args.mask_truncated_completions or call.completion[-1] in self.eos_token_ids
        columns = {"advantages": advantage.to(self.accelerator.device).expand(len(call.completion))}
        if call.logprobs:
            sampled = [torch.nan if one is None else one for one in call.logprobs]
            columns["sampling_per_token_logps"] = torch.tensor(sampled, device=self.accelerator.device)
        return Row(reply, future, call, learnt, columns)

    def add_log_probabilities(self) -> None:
        """Give the rows the log-probabilities that TRL gives the replies."""
        with torch.no_grad():
            for rows in self.micro_batches(self.rows):
                batch = self.collated(rows)
                if "old_per_token_logps" in self.columns:
                    self.fill(rows, "old_per_token_logps", self.log_probabilities(self.model, batch))
                if "importance_sampling_ratio" in self.columns:
                    self._correct(rows)
                if "ref_per_token_logps" in self.columns:
                    with self._reference() as reference:
                        self.fill(rows, "ref_per_token_logps", self.log_probabilities(reference, batch))

    def _correct(self, rows: Sequence[Row]) -> None:
        for columns in (row.columns for row in rows if row.call.logprobs):
            old, sampled = columns["old_per_token_logps"], columns["sampling_per_token_logps"]
            columns["importance_sampling_ratio"] = importance_ratio(old, sampled, self.args)

    @contextmanager
    def _reference(self) -> Iterator[nn.Module]:
        """Yield the reference: a model, the adapter "ref" that TRL adds to a PeftModel, or the model without one."""
        if self.ref_model is not None:
            yield self.ref_model
            return
        model = self.accelerator.unwrap_model(self.model)
        if "ref" not in model.peft_config:
            with model.disable_adapter():
                yield self.model
            return
        active = model.active_adapter
        model.set_adapter("ref")
        try:
            yield self.model
        finally:
            model.set_adapter(active)

    def log_probabilities(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the log-probabilities (B, T) of the tokens of a batch's completions."""
        logps: torch.Tensor = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
            batch["completion_ids"].shape[1],
            batch_size=self.args.per_device_train_batch_size,
        )[0]
        return logps

    def fill(self, rows: Sequence[Row], name: str, values: torch.Tensor) -> None:
        """Give the rows a column, from values (B, T) that are padded on the right."""
        for row, own in zip(rows, values, strict=True):
            row.columns[name] = own[: len(row.call.completion)]

    def _note_sizes(self, output: Mapping[str, torch.Tensor], scored: torch.Tensor) -> None:
        if not self.played:
            return
        learnt = output["completion_mask"] * output.get("tool_mask", 1) * scored[:, None]
        rows = [row for row in self.rows if row.learnt]
        turns = int(learnt.any(dim=1).sum()) + len(rows)
        tokens = int(learnt.sum()) + sum(len(row.call.completion) for row in rows)
        calls = self.calls_of_replies(len(scored)) + sum(one.made for _, reward in self.played for one in reward.last)
        sizes = torch.tensor([[turns, tokens, calls]], device=self.accelerator.device)
        for name, value in zip(("turns", "tokens", "calls"), self.accelerator.gather(sizes).sum(dim=0), strict=True):
            self.note(f"tree/{name}", value.item())

    def calls_of_replies(self, replies: int) -> int:
        """Return how many calls of the model in training so many replies took."""
        return replies

    def note(self, name: str, value: float) -> None:
        """Log the mean of the values since the last log."""
        self._noted[self.model.training][name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        noted = self._noted[self.model.training]
        prefix = "" if self.model.training else "eval_"
        logs |= {f"{prefix}{name}": sum(values) / len(values) for name, values in noted.items()}
        noted.clear()
        super().log(logs, start_time)

    def _after(self, replies: list[int]) -> list[_Turns]:
        """Return the turns that follow these replies, in micro-batches as many and as large on every process."""
        kept = set(replies)
        parts = self.micro_batches([row for row in self.rows if row.reply in kept])
        return [self.collated(rows, replies=len(replies)) for rows in parts]

    def micro_batches(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """Yield the rows in batches of equal weights and similar lengths.

        With several processes they are as many and as large on each of them.
        """
        size = self.args.per_device_train_batch_size
        for of_replies in (True, False):
            alike = [row for row in rows if (row.future is None) == of_replies]
            ordered = sorted(alike, key=lambda row: len(row.call.prompt) + len(row.call.completion))
            if self.accelerator.num_processes > 1:
                count = torch.tensor([math.ceil(len(alike) / size)], device=self.accelerator.device)
                places = size * int(self.accelerator.gather(count).max())
                token = self.processing_class.pad_token_id
                empty = Row(0, None if of_replies else 0, Call([token], [token]), learnt=False)
                ordered += [replace(empty, columns={}) for _ in range(places - len(alike))]
            for start in range(0, len(ordered), size):
                yield ordered[start : start + size]

    def collated(self, rows: Sequence[Row], *, replies: int = 1) -> _Turns:
        """Return the rows as a batch, whose share is such that TRL's mean over rows becomes one over replies."""
        among = 1 if rows[0].future is None else self.played[0][1].lookahead.futures
        prompts = [row.call.prompt for row in rows]
        completions = [row.call.completion for row in rows]
        empty = self.processing_class.pad_token_id
        batch = _Turns(
            prompt_ids=self._padded(prompts, "left", empty),
            prompt_mask=self._padded([[1] * len(one) for one in prompts], "left"),
            completion_ids=self._padded(completions, "right", empty),
            completion_mask=self._padded([[1] * len(one) for one in completions], "right"),
            tool_mask=self._padded([[int(row.learnt)] * len(row.call.completion) for row in rows], "right"),
            share=len(rows) / (replies * among),
        )
        for name in self.columns:
            columns = [row.columns.get(name, torch.zeros(len(row.call.completion))) for row in rows]
            batch[name] = self._padded(columns, "right")
        return batch

    def _padded(self, values: Sequence[Any], side: str, value: int = 0) -> torch.Tensor:
        tensors = [torch.as_tensor(one, device=self.accelerator.device) for one in values]
        result = pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)
        more = -result.shape[1] % (self.args.pad_to_multiple_of or 1)
        return nn.functional.pad(result, (more, 0) if side == "left" else (0, more), value=value)

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        if "reply" in inputs:
            self._following = self._after(inputs["reply"].tolist())
        loss: torch.Tensor = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return loss * inputs.get("share", 1.0)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        total: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        following, self._following = self._following, []
        for turns in following:
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, turns)
            self.accelerator.backward(loss)
            total = total + loss.detach()
        return total
