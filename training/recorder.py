"""Recording samples while an online trainer learns: a few of each so many steps go to samples.jsonl and the loggers."""

import json
from collections.abc import Iterator
from pathlib import Path

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from collab_agents.training.config import SamplesConfig
from collab_agents.training.loggers import report
from collab_agents.training.policy import clean
from collab_agents.training.rewards import MultiturnRewardFunction, Scored
from collab_agents.training.samples import SAMPLES, Sample, SampledFuture, SampledReply, read_samples
from collab_agents.trajectories import JsonlStore


def record_samples(trainer: Trainer, reward: MultiturnRewardFunction, samples: SamplesConfig | None = None) -> None:
    """Record what a trainer samples in `samples.jsonl` in its output folder, and show it to the loggers it reports to.

    The trainers of this package do it by themselves. Call it before `train()`. The first step is recorded, and then the
    first one that samples once so many steps have passed. A training that is resumed drops the steps after its
    checkpoint from the file, and records them again. With several processes, it is what the main one sampled.

    Args:
        trainer: A GRPO, PPO or online DPO trainer.
        reward: The reward function it has. Only one recorder can watch it.
        samples: How much to record.
    """
    trainer.add_callback(_Recorder(trainer, reward, samples or SamplesConfig()))


class _Recorder(TrainerCallback):
    """Takes what the reward function scored, and writes it at the end of the step: before, the step may not count."""

    def __init__(self, trainer: Trainer, reward: MultiturnRewardFunction, config: SamplesConfig) -> None:
        self._trainer = trainer
        self._config = config
        self._folder = Path(trainer.args.output_dir)
        self._file = JsonlStore(self._folder / SAMPLES, private=False)
        self._last: int | None = None
        self._new: list[Sample] = []
        reward.on_scored = self._take

    def _take(self, replies: list[Scored]) -> None:
        state = self._trainer.state
        # It is called in evaluation too, and by online DPO for each part of an accumulated batch.
        if not state.is_world_process_zero or not self._trainer.model.training or self._new:
            return
        step = state.global_step + 1
        if self._last is None or step - self._last >= (self._config.every or state.logging_steps):
            self._new = _samples(step, replies, self._config)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        if not state.is_world_process_zero:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file.replace(self._up_to(state.global_step))
        self._new = []

    def _up_to(self, step: int) -> Iterator[Sample]:
        self._last = None
        for sample in read_samples(self._folder):
            if sample.step <= step:
                self._last = sample.step
                yield sample

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if not self._new:
            return
        new, self._new = self._new, []
        self._last = new[0].step
        for sample in new:
            self._file.append(sample, sync=False)
        self._file.sync()
        report(new, self._trainer)


def _samples(step: int, replies: list[Scored], config: SamplesConfig) -> list[Sample]:
    found: dict[str, Sample] = {}
    for one in replies:
        key = json.dumps([one.task.id, one.prompt], default=str)
        if key not in found:
            if len(found) == config.prompts:
                continue
            found[key] = Sample(step=step, task=one.task, persona=one.persona, prompt=clean(one.prompt), replies=[])
        futures = one.result.get("futures", [])
        found[key].replies.append(
            SampledReply(
                messages=clean(one.completion),
                reward=one.result["reward"],
                scores=one.result["scores"],
                played=len(futures),
                futures=[
                    SampledFuture.model_validate({**future, "policy_step": one.policy_step})
                    for future in futures[: config.futures]
                ],
                error=one.result.get("error"),
            )
        )
    return list(found.values())
