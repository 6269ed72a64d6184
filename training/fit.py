"""What all trainings share: the output folder, checkpoints, logs and curves."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from collab_agents.errors import CollabError, ConfigError, RunDirectoryError
from collab_agents.models.sources import ADAPTER
from collab_agents.training.arguments import trainer_arguments
from collab_agents.training.card import ModelCard
from collab_agents.training.config import PolicyConfig
from collab_agents.training.curves import plot_curves
from collab_agents.training.evaluation import HeldOutEvaluation
from collab_agents.training.made_from import read_made_from
from collab_agents.training.records import CONFIG, LOG, last_values, trainings_of, versions
from collab_agents.training.tiles import fit_tiles

A = TypeVar("A", bound=TrainingArguments)


class DivergedError(CollabError):
    """The loss became NaN or infinite."""


def claim(
    method: str,
    shape: type[A],
    model: PolicyConfig,
    out: str | Path,
    *,
    trainer: Mapping[str, object] | None,
    resume: bool,
    settings: Mapping[str, object] | None,
    evaluation: HeldOutEvaluation | None = None,
) -> A:
    """Check the trainer's arguments and return them, and create or check its folder. It may be called again.

    Raises:
        ConfigError: For a wrong argument.
        RunDirectoryError: For a folder that is in use.
    """
    args = trainer_arguments(shape, trainer or {}, out)
    if evaluation is not None:
        evaluation.check(args)
    if args.process_index == 0:
        kept = {"method": method, "model": model.model_dump(), "trainer": dict(trainer or {}), **(settings or {})}
        _claim_folder(Path(out), json.loads(json.dumps(kept)), resume=resume)
    return args


@contextmanager
def building(args: TrainingArguments) -> Iterator[None]:
    """Build a trainer inside: a library's error becomes a ConfigError, and tiles get the size for a CPU on one."""
    if args.device.type == "cpu":
        fit_tiles()
    try:
        yield
    except CollabError:
        raise
    except (ValueError, ImportError, NotImplementedError) as error:
        raise ConfigError(f"the trainer cannot be built: {' '.join(str(error).split())}") from error


class _StopAtNan(TrainerCallback):
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        loss = (logs or {}).get("loss")
        if isinstance(loss, float) and not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} at step {state.global_step}: lower trainer.learning_rate, or set "
                f"trainer.max_grad_norm; the last checkpoint is in {args.output_dir}"
            )


def _claim_folder(folder: Path, config: dict[str, object], *, resume: bool) -> None:
    """Create or check the folder. Only one with a checkpoint or logs is in use: a failed start can be repeated."""
    there = folder / CONFIG
    if last_checkpoint(folder) is not None or (folder / LOG).exists():
        if not resume:
            raise RunDirectoryError(f"{folder} already holds a training: resume it, or choose another directory")
        before = json.loads(there.read_text(encoding="utf-8")) if there.exists() else {}
        for key in sorted({*before, *config} - {"versions"}):
            if before.get(key) != config.get(key):
                raise RunDirectoryError(
                    f"{folder} was made with {key} = {before.get(key)!r}, and now it is {config.get(key)!r}: resume "
                    "with the same settings, or choose another directory"
                )
        return
    if folder.exists() and not there.exists() and any(folder.iterdir()):
        raise RunDirectoryError(f"{folder} is not empty: choose another directory")
    folder.mkdir(parents=True, exist_ok=True)
    there.write_text(json.dumps({**config, "versions": versions()}, indent=2) + "\n", encoding="utf-8")


def last_checkpoint(folder: Path) -> str | None:
    """Return the last complete checkpoint: a kill may have left a later one incomplete."""
    whole = [one for one in folder.glob("checkpoint-*") if _is_whole(one / TRAINER_STATE_NAME)]
    return str(max(whole, key=lambda one: int(one.name.rpartition("-")[2]))) if whole else None


def _is_whole(state: Path) -> bool:
    try:
        return bool(json.loads(state.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def fit(
    trainer: Trainer, out: str | Path, *, resume: bool = False, evaluation: HeldOutEvaluation | None = None
) -> dict[str, float]:
    """Train, save the model in `out`, and return the last value of everything logged.

    With `resume`, training continues from the last checkpoint if there is one. The tokenizer, a card,
    `training_log.json` and `training_curves.png` are saved beside the model.
    """
    folder = Path(out)
    checkpoint = last_checkpoint(folder) if resume else None
    trainer.add_callback(_StopAtNan())
    if evaluation is not None:
        evaluation.bind(trainer, resume=checkpoint is not None)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except ValueError as error:
        if "logging_steps" in str(error):
            raise ConfigError(f"trainer: {error}") from error
        raise
    if trainer.is_fsdp_enabled:  # Otherwise only shards would be saved, if anything.
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(folder))
    history: list[dict[str, float]] = trainer.state.log_history
    if trainer.accelerator.is_main_process:
        trainings, base = trainings_of(folder)
        adapter = (folder / ADAPTER).exists()
        best = evaluation and evaluation.summary()
        card = ModelCard(folder.name, adapter, trainings, base, read_made_from(folder), history, best_step=best)
        (folder / "README.md").write_text(card.text(), encoding="utf-8")
        plot_curves(history, folder / "training_curves.png")
        (folder / LOG).write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    trainer.accelerator.wait_for_everyone()
    return last_values(history)
