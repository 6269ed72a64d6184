"""Online DPO with the multiturn-aware reward: of two replies to each prompt, the better one is preferred.

TRL (1.16) has its trainer in `trl.experimental`, which promises nothing. The reward functions are joined to one, which
TRL calls as it calls any. Two private methods are overridden:

- `_forward`, whose result has the log-probabilities that the loss is computed from, a row a reply, because a pair that
  does not count cannot be left out in any other way.
- `_generate`, because there is no public way to sample by an engine that TRL does not know.
"""

import asyncio
import inspect
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from datasets import DatasetDict
from torch.nn.utils.rnn import pad_sequence

from collab_agents.errors import ConfigError
from collab_agents.training.config import PolicyConfig, SamplesConfig
from collab_agents.training.evaluation import HeldOutEvaluation
from collab_agents.training.online import RewardFunction, train_online
from collab_agents.training.players import check_openvino, player_of
from collab_agents.training.rollouts import Rollouts

with warnings.catch_warnings():  # It warns that it is experimental. The version is pinned and tested.
    warnings.simplefilter("ignore")
    from trl.experimental.online_dpo import OnlineDPOConfig as _OnlineDPOConfig
    from trl.experimental.online_dpo import OnlineDPOTrainer as _OnlineDPOTrainer


@dataclass
class OnlineDPOConfig(_OnlineDPOConfig):
    """TRL's OnlineDPOConfig, with a choice of the engine."""

    use_openvino: bool = field(default=False)
    """Whether OpenVINO samples the replies and plays their futures. For training on a processor."""
    openvino_cache_gb: int = field(default=1)
    """Gigabytes for OpenVINO's keys and values of prompts and completions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_openvino:
            check_openvino(self)


class OnlineDPOTrainer(_OnlineDPOTrainer):
    """TRL's OnlineDPOTrainer with reward functions that may be async, may return None, and may log metrics.

    If a reply has no reward, or both rewards of a pair are equal, the pair has no preference: its gradient is zero,
    and the loss is the mean over the other pairs. (TRL counts a missing reward as 0 and prefers the first of equals.)

    With `use_vllm` or `use_openvino`, the engine that samples replies plays their futures too.
    """

    args: "OnlineDPOConfig"
    reward_funcs: list[Any]
    reward_processing_classes: list[Any]
    reward_weights: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if any(isinstance(one, torch.nn.Module) for one in self.reward_funcs):
            raise ConfigError("online-dpo takes reward functions here: use the judge reward_model for a reward model")
        self._functions = list(zip(self.reward_funcs, self.reward_weights.tolist(), strict=True))
        self.player = player_of(self, self.reward_funcs)
        self._rollouts = Rollouts(self.player) if self.player is not None and self.player.samples else None
        self.reward_funcs, self.reward_processing_classes = [self._rewards], [None]
        self.reward_weights = torch.ones(1)
        self._weights = torch.zeros(0)
        self._logged: dict[str, list[float]] = defaultdict(list)
        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, name="online-dpo-rewards", daemon=True).start()

    def _generate(self, model: torch.nn.Module, prompts: list[Any], images: object = None) -> tuple[Any, ...]:
        if self._rollouts is None:
            generated: tuple[Any, ...] = super()._generate(model, prompts, images)
            return generated
        encoded, completions = self._rollouts.sample(2 * prompts, self, self.args.max_new_tokens)
        return *self._padded(encoded, "left"), *self._padded([one.ids for one in completions], "right"), None

    def _padded(self, rows: Sequence[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens and their mask, both (B, T)."""
        device, empty = self.accelerator.device, self.processing_class.pad_token_id
        ids = pad_sequence([torch.tensor(row) for row in rows], True, empty, side)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], True, 0, side)
        return ids.to(device), mask.to(device)

    def _rewards(self, prompts: Sequence[object], **given: object) -> list[float]:
        """Return the sum of the functions' rewards, and keep which pairs count."""
        device = self.accelerator.device
        given |= {"prompts": prompts, "log_metric": self._log_metric}
        total = torch.zeros(len(prompts), device=device)
        scored = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        with self.player.ready() if self.player is not None else nullcontext():
            found = [self._call(function, given) for function, _ in self._functions]
        for values, (_, weight) in zip(found, self._functions, strict=True):
            rewards = torch.tensor([torch.nan if one is None else one for one in values], device=device)
            scored |= ~rewards.isnan()
            total += weight * rewards.nan_to_num()
        first, second = total.split(len(prompts) // 2)
        kept = scored.view(2, -1).all(0) & (first != second)
        self._logged["pairs_kept"].append(kept.float().mean().item())
        # The loss is the mean over all pairs, so the pairs that count are weighted up for those that do not.
        self._weights = (kept.float() * len(kept) / kept.sum().clamp(min=1)).repeat(2)
        return total.tolist()

    def _call(self, function: Any, given: Mapping[str, object]) -> Sequence[float | None]:
        values = function(**given)
        if inspect.iscoroutine(values):
            values = asyncio.run_coroutine_threadsafe(values, self._loop).result()
        return values

    def _forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        logprobs: torch.Tensor = super()._forward(*args, **kwargs)
        if logprobs.requires_grad:  # The rewards are known before the backward pass.
            logprobs.register_hook(lambda gradient: gradient * self._weights[:, None].to(gradient.dtype))
        return logprobs

    def _log_metric(self, name: str, value: float) -> None:
        self._logged[name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs |= {name: sum(values) / len(values) for name, values in self._logged.items() if values}
        self._logged.clear()
        super().log(logs, start_time)

    def close(self) -> None:
        """End the thread that the reward functions run on."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)


def train_online_dpo(
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
    """Train with TRL's online DPO trainer.

    The arguments not listed here, and everything else, are as for `train_grpo`.

    Args:
        model: The model to train.
        data: The split `train`; there is no evaluation during training.
        reward: A `MultiturnRewardFunction`, any other TRL reward function, or several.
        out: The folder to write.
        trainer: Keys of `OnlineDPOConfig`: TRL's, `use_openvino` and `openvino_cache_gb`.
        samples: What to record in samples.jsonl of the replies that a `MultiturnRewardFunction` scored.
        evaluation: Held-out conversations to play while it trains.
        resume: Whether to continue from the last checkpoint in `out`.
        settings: More settings to keep in training.json.

    Raises:
        ConfigError: If `data` has a split `eval`, and as for `train_grpo`.
    """
    if "eval" in data:
        raise ConfigError(
            "online-dpo has no evaluation during training: leave out eval_share or the dataset's held-out split, and "
            "use `evaluate`"
        )
    return train_online(
        "online-dpo",
        OnlineDPOTrainer,
        OnlineDPOConfig,
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
