"""GRPO on an app as it is: every call of the model in training in a turn learns, on the tokens that were sampled.

The app decides how many calls a turn has. TRL's batch has the first call of each, from `AppRollouts`, and the others
follow it with the advantage of the turn. They are added up, not averaged: a turn's log-probability is the sum over its
calls, and dividing by their number, which the policy influences, would make an action's weight depend on the action.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from collab_agents.training.tree_trainer import Row, TreeGRPOConfig, TreeGRPOTrainer
from collab_agents.training.turns import AppRollouts


@dataclass
class AppGRPOConfig(TreeGRPOConfig):
    """TRL's GRPOConfig for an app, whose sums are divided by constants only."""

    def __post_init__(self) -> None:
        if self.use_vllm:
            raise ValueError("use_vllm must be False with an app, got True")
        super().__post_init__()

    @property
    def with_rows(self) -> str:
        return "an app"


class AppGRPOTrainer(TreeGRPOTrainer):
    """TRL's GRPOTrainer, whose completions are the turns of an app.

    `app/calls` is the mean number of calls of the model in training in a turn, and `app/failed` the share of turns in
    which the app gave no reply.
    """

    args: AppGRPOConfig

    def __init__(self, *args: Any, rollout_func: AppRollouts, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You are using 'rollout_func', which is an experimental feature")
            super().__init__(*args, rollout_func=rollout_func, **kwargs)
        self._rollouts = rollout_func

    def rows_after(self, output: Mapping[str, torch.Tensor], scored: torch.Tensor) -> Iterator[Row]:
        for reply, turn in enumerate(self._rollouts.last):
            if scored[reply]:
                yield from (self.row(reply, None, call, output["advantages"][reply]) for call in turn.calls[1:])
        yield from super().rows_after(output, scored)

    def calls_of_replies(self, replies: int) -> int:
        return sum(len(turn.calls) for turn in self._rollouts.last)

    def rolled_out(self, output: dict[str, Any], own: slice) -> None:
        super().rolled_out(output, own)
        turns = self._rollouts.last
        sums = torch.tensor([[sum(len(turn.calls) for turn in turns), sum(bool(turn.error) for turn in turns)]])
        calls, failed = (self.accelerator.gather(sums.to(self.accelerator.device)).sum(dim=0)).tolist()
        count = len(turns) * self.accelerator.num_processes
        self.note("app/calls", calls / count)
        self.note("app/failed", failed / count)
