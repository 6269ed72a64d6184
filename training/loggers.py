"""Samples for the loggers that a trainer reports to: TensorBoard, W&B and Trackio.

TRL sends W&B and Trackio a table of its own if `log_completions` is set, to which the reward function adds its columns.
Then they get no other one.
"""

import textwrap
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from pandas import DataFrame
from transformers import Trainer
from transformers.integrations import TensorBoardCallback

from collab_agents.messages import as_text, from_dicts
from collab_agents.training.samples import Sample, SampledReply
from collab_agents.trajectories import Message

_NAME = "samples"


def report(samples: Sequence[Sample], trainer: Trainer) -> None:
    """Send the samples of a step to the loggers that are active. Call it in the main process, on its main thread."""
    step = samples[0].step
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            callback.tb_writer.add_text(_NAME, "\n\n".join(map(_markdown, samples)), step)
    if getattr(trainer.args, "log_completions", False):
        return
    for name in ("wandb", "trackio"):
        if name in (trainer.args.report_to or ()):
            log_table(import_module(name), samples)


def log_table(logger: Any, samples: Sequence[Sample]) -> None:
    """Log a table with a row a reply by `wandb` or `trackio`, which have the same API for it."""
    if getattr(logger, "run", True) is None:  # W&B was not started.
        return
    rows = [_row(sample, reply) for sample in samples for reply in sample.replies]
    table = logger.Table(dataframe=DataFrame(rows))
    logger.log({_NAME: table, "train/global_step": samples[0].step})  # The axis that transformers logs by.


def cell_of(messages: Sequence[Message]) -> str:
    """Return messages as one text, for a cell of a table."""
    return as_text(from_dicts(messages)).strip()


def _row(sample: Sample, reply: SampledReply) -> dict[str, object]:
    return {
        "step": sample.step,
        "task": sample.task.id,
        "prompt": cell_of(sample.prompt),
        "reply": cell_of(reply.messages),
        "reward": reply.reward,
        **{f"judges/{name}": score for name, score in reply.scores.items()},
        "future": cell_of(reply.futures[0].messages) if reply.futures else "",
    }


def _markdown(sample: Sample) -> str:
    """Return Markdown in which what was said is indented as code, so that none of it is markup."""
    parts = [f"**Task** {_code(sample.task.id)}", "**Prompt**", _block(cell_of(sample.prompt))]
    for number, reply in enumerate(sample.replies, 1):
        values = {"reward": reply.reward, **reply.scores}
        told = ", ".join(f"{name} {'none' if value is None else f'{value:.3f}'}" for name, value in values.items())
        parts += [f"**Reply {number}**: {told}", _block(cell_of(reply.messages))]
        for future in reply.futures:
            parts += [f"A future of reply {number}", _block(cell_of(future.messages))]
    return "\n\n".join(parts)


def _block(text: str) -> str:
    return textwrap.indent(text or "(nothing)", "    ", lambda line: True)


def _code(text: str) -> str:
    return "`" + " ".join(text.replace("`", "'").split()) + "`"
