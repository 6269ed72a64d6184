"""What every training has in common: going on from a checkpoint, logs, curves, and what is left in the folder."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from collab_agents.errors import CollabError, ConfigError, RunDirectoryError
from collab_agents.training.arguments import trainer_arguments
from collab_agents.training.config import PolicyConfig
from collab_agents.training.curves import plot_curves
from collab_agents.training.policy import Policy, load_policy
from collab_agents.training.tiles import fit_tiles

A = TypeVar("A")
CONFIG = "training.json"


class DivergedError(CollabError):
    """The loss is no number any more."""


def begin(
    method: str,
    shape: type[A],
    model: PolicyConfig,
    out: str | Path,
    *,
    trainer: Mapping[str, Any] | None,
    resume: bool,
    settings: Mapping[str, Any] | None,
) -> tuple[A, Policy]:
    """The arguments and the policy of a training, once its folder is seen to be free or its own."""
    args: Any = trainer_arguments(shape, trainer or {}, out)
    if args.device.type == "cpu":
        fit_tiles()
    kept = {"method": method, "model": model.model_dump(), "trainer": dict(trainer or {}), **(settings or {})}
    if args.process_index == 0:
        _check_folder(Path(out), kept, resume=resume)
    return args, load_policy(model)


class _StopAtNan(TrainerCallback):
    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        loss = (logs or {}).get("loss")
        if isinstance(loss, float) and not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} at step {state.global_step}: lower trainer.learning_rate, or set "
                f"trainer.max_grad_norm; the last checkpoint is in {args.output_dir}"
            )


def _check_folder(folder: Path, config: dict[str, Any], *, resume: bool) -> None:
    """Make the folder, or see that it can be gone on with. Raises RunDirectoryError if it cannot."""
    there = folder / CONFIG
    if there.exists():
        if not resume:
            raise RunDirectoryError(f"{folder} already holds a training: resume it, or choose another directory")
        before = json.loads(there.read_text(encoding="utf-8"))
        now = json.loads(json.dumps(config))
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                raise RunDirectoryError(
                    f"{folder} was made with {key} = {before.get(key)!r}, and now it is {now.get(key)!r}: resume with "
                    "the same settings, or choose another directory"
                )
    elif folder.exists() and any(folder.iterdir()) and not resume:
        raise RunDirectoryError(f"{folder} holds something already: choose another directory")
    folder.mkdir(parents=True, exist_ok=True)
    there.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _last_checkpoint(folder: Path) -> str | None:
    """The last that was written to its end: a kill may have left the beginning of a later one."""
    whole = [one for one in folder.glob("checkpoint-*") if (one / TRAINER_STATE_NAME).exists()]
    return str(max(whole, key=lambda one: int(one.name.rpartition("-")[2]))) if whole else None


def fit(trainer: Trainer, out: str | Path, *, resume: bool = False) -> dict[str, float]:
    """Train, from the last checkpoint if `resume` is set and there is one, and save the model, its tokenizer, its

    card, `training_log.json` and `training_curves.png` in `out`. Returns the last value of everything logged.
    """
    folder = Path(out)
    checkpoint = _last_checkpoint(folder) if resume else None
    trainer.add_callback(_StopAtNan())
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except ValueError as error:
        if "logging_steps" in str(error):
            raise ConfigError(f"trainer: {error}") from error
        raise
    trainer.save_model(str(folder))
    history: list[dict[str, Any]] = trainer.state.log_history
    if trainer.accelerator.is_main_process:
        trainer.create_model_card(model_name=folder.name)
        (folder / "training_log.json").write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
        plot_curves(history, folder / "training_curves.png")
    trainer.accelerator.wait_for_everyone()
    last: dict[str, float] = {}
    for entry in history:
        last.update({key: value for key, value in entry.items() if isinstance(value, int | float)})
    return last
