"""What was said, for the loggers that a trainer reports to: TensorBoard, W&B and Trackio.

TRL sends W&B and Trackio a table of its own if `log_completions` is set, to which the reward function adds its columns.
Then they get no other one of samples.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from pandas import DataFrame
from transformers import Trainer
from transformers.integrations import TensorBoardCallback

from collab_agents.messages import as_text, from_dicts
from collab_agents.training.samples import Sample, SampledReply
from collab_agents.trajectories import Message, Trajectory

_SAMPLES, _HELD_OUT = "samples", "heldout/conversations"


def report(samples: Sequence[Sample], trainer: Trainer) -> None:
    """Send the samples of a step to the loggers that are active. Call it in the main process, on its main thread."""
    step = samples[0].step
    _add_text(trainer, _SAMPLES, "\n\n".join(map(_markdown, samples)), step)
    if not getattr(trainer.args, "log_completions", False):
        for logger in _table_loggers(trainer):
            log_table(logger, samples)


def report_conversations(played: Sequence[Trajectory], step: int, trainer: Trainer) -> None:
    """Send held-out conversations to the loggers that are active. Call it in the main process, on its main thread."""
    if not played:
        return
    _add_text(trainer, _HELD_OUT, "\n\n".join(map(_told, played)), step)
    for logger in _table_loggers(trainer):
        log_conversations(logger, played, step)


def log_table(logger: Any, samples: Sequence[Sample]) -> None:
    """Log a table with a row a reply by `wandb` or `trackio`, which have the same API for it."""
    rows = [_row(sample, reply) for sample in samples for reply in sample.replies]
    _log(logger, _SAMPLES, rows, samples[0].step)


def log_conversations(logger: Any, played: Sequence[Trajectory], step: int) -> None:
    """Log a table with a row a conversation by `wandb` or `trackio`."""
    rows = [
        {
            "step": step,
            "task": one.task.id,
            "persona": one.persona.name if one.persona else "",
            "conversation": cell_of(one.messages),
            "reward": one.reward,
            **{f"judges/{name}": score for name, score in one.scores.items()},
        }
        for one in played
    ]
    _log(logger, _HELD_OUT, rows, step)


def cell_of(messages: Sequence[Message]) -> str:
    """Return messages as one text, for a cell of a table."""
    return as_text(from_dicts(messages)).strip()


def _add_text(trainer: Trainer, name: str, text: str, step: int) -> None:
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            callback.tb_writer.add_text(name, text, step)


def _table_loggers(trainer: Trainer) -> Iterator[Any]:
    for name in ("wandb", "trackio"):
        if name in (trainer.args.report_to or ()):
            yield import_module(name)


def _log(logger: Any, name: str, rows: Sequence[Mapping[str, object]], step: int) -> None:
    if getattr(logger, "run", True) is None:  # W&B was not started.
        return
    table = logger.Table(dataframe=DataFrame(rows))
    logger.log({name: table, "train/global_step": step})  # The axis that transformers logs by.


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
        parts += [f"**Reply {number}**: {_values(reply)}", _block(cell_of(reply.messages))]
        for future in reply.futures:
            parts += [f"A future of reply {number}", _block(cell_of(future.messages))]
    return "\n\n".join(parts)


def _told(one: Trajectory) -> str:
    return f"**Task** {_code(one.task.id)}: {_values(one)}\n\n{_block(cell_of(one.messages))}"


def _values(one: SampledReply | Trajectory) -> str:
    values = {"reward": one.reward, **one.scores}
    return ", ".join(f"{name} {'none' if value is None else f'{value:.3f}'}" for name, value in values.items())


def _block(text: str) -> str:
    return textwrap.indent(text or "(nothing)", "    ", lambda line: True)


def _code(text: str) -> str:
    return "`" + " ".join(text.replace("`", "'").split()) + "`"
