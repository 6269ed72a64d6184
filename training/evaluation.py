"""Evaluation while training: the model in training plays held-out conversations, and the best step is kept."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from collab_agents._internal.reasons import nearest
from collab_agents._internal.sync import run_sync
from collab_agents._internal.text import harmless
from collab_agents.assistants import Assistant, ChatAssistant
from collab_agents.costs import Price
from collab_agents.errors import ConfigError
from collab_agents.humans import check_simulated
from collab_agents.models.engines.base import Engine
from collab_agents.models.engines.transformers import TransformersEngine
from collab_agents.models.local import LocalChatModel
from collab_agents.models.policy import Served, serving
from collab_agents.runs import ProgressBar, TaskSet, check_tasks, evaluate
from collab_agents.runs.evaluate import run_folders
from collab_agents.training.answering import answering, base_of, check_whole, same_randomness
from collab_agents.training.held_out import (
    FAILED,
    REWARD,
    Entry,
    best_of,
    entry_of,
    evaluations_in,
    is_evaluated,
    with_best,
)
from collab_agents.training.loggers import report_conversations
from collab_agents.training.played import SAMPLING
from collab_agents.training.players import Player
from collab_agents.training.rounds import EVALUATIONS
from collab_agents.trajectories import Trajectory, read_trajectories

logger = logging.getLogger(__name__)

_SIDE = "policy"
"""What the model in training is called in the scorecards."""


class HeldOutEvaluation(TrainerCallback):
    """Plays held-out conversations every n steps of any trainer, logs the scorecard, keeps the best step, stops early.

    The model in training plays each task as `evaluate` does: before the first step, every n steps, and after the last
    one. The random numbers of the training stay the same, so it learns what it would learn without. Every measure is
    logged (`heldout/reward`) with the ends of its 95% interval (`heldout/reward/low`, `heldout/reward/high`); with
    several task sets, those of a set are `heldout/SET/reward`, and `heldout/reward` is the mean over the sets. The
    conversations and the scorecard of a step are in `evaluations/step-N` in the trainer's folder.

    A checkpoint is saved before each evaluation, unless the trainer saves none. A training that was killed therefore
    goes on with the evaluation that was under way, and has finished ones behind it. With several processes, the main
    one plays, and the others wait.

    Args:
        sets: The held-out tasks, with the user who plays them and the judges.
        every: Steps from one evaluation to the next.
        patience: The training ends after so many evaluations in turn without a better reward. None never ends it.
        load_best: Whether the trainer ends with the model of the best step, as by `load_best_model_at_end`. The model
            before the first step counts too.
        assistant: Makes the assistant of the model in training, a chat model.
        sampling: The `temperature`, `top_p`, `max_tokens` and `stop` (texts that end a reply) of the model in training;
            by default its own temperature and 256 tokens.
        batch_size: Replies that are generated together. With `use_openvino` it is that of the reward.
        repeats: How often each task is played.
        seed: The seed of the conversations, which all evaluations share.
        max_concurrency: Conversations in progress at once.
        conversations: How many conversations of each set the loggers get as text; the first tasks of the set.
        prices: Prices by model, as for `evaluate`.
        checkpoints: The database of the unfinished conversations, as for `evaluate`.
        settings: What to keep of the assistant in the run.json of each evaluation.

    Raises:
        ConfigError: For a wrong number, sets with the same name, or a task that cannot be played or judged.

    Example:
        held_out = TaskSet("trips", list(load_tasks("held_out.jsonl")), AgendaUser(), reward)
        evaluation = HeldOutEvaluation([held_out], every=50, patience=3, sampling={"max_tokens": 128})
        train_grpo(PolicyConfig(name="smollm2"), data, rewards, "tuned", evaluation=evaluation)
    """

    def __init__(
        self,
        sets: Sequence[TaskSet],
        *,
        every: int = 50,
        patience: int | None = None,
        load_best: bool = True,
        assistant: Callable[[LocalChatModel], Assistant] = ChatAssistant,
        sampling: Mapping[str, Any] | None = None,
        batch_size: int = 32,
        repeats: int = 1,
        seed: int = 0,
        max_concurrency: int = 32,
        conversations: int = 2,
        prices: Mapping[str, Price] | None = None,
        checkpoints: str | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        for name, value, least in (
            ("every", every, 1),
            ("patience", patience, 1),
            ("batch_size", batch_size, 1),
            ("repeats", repeats, 1),
            ("conversations", conversations, 0),
        ):
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        for name in sampling or {}:
            if name not in SAMPLING:
                raise ConfigError(f"sampling: {name!r} is not one of {', '.join(SAMPLING)}{nearest(name, SAMPLING)}")
        if not sets:
            raise ConfigError("sets is empty: give tasks to evaluate on")
        run_folders([one.name for one in sets], [_SIDE], repeats)
        check_simulated(*(one.user for one in sets), instead="evaluate with simulated ones")
        for one in sets:
            check_tasks(one.name, one.tasks, one.user, one.reward)
        self._sets = sets
        self._every = every
        self._patience = patience
        self._load_best = load_best
        self._make_assistant = assistant
        self._sampling = dict(sampling or {})
        self._batch_size = batch_size
        self._conversations = conversations
        self._options: dict[str, Any] = {
            "seed": seed,
            "repeats": repeats,
            "max_concurrency": max_concurrency,
            "prices": prices,
            "checkpoints": checkpoints,
            "settings": {_SIDE: settings or {}},
        }
        self._trainer: Trainer | None = None
        self._assistant: Assistant | None = None
        self._policy: Served | None = None
        self._player: Player | None = None
        self._goes_on = False
        self._due = False
        self._over = False

    def check(self, args: TrainingArguments) -> None:
        """Raise ConfigError if a trainer with these arguments would choose or keep the best model in another way."""
        check_arguments(args, load_best=self._load_best)

    def bind(self, trainer: Trainer, *, resume: bool = False) -> None:
        """Add it to a trainer. This package's training functions do so by themselves.

        Args:
            trainer: A trainer of a causal language model. Call it before `trainer.train()`.
            resume: Whether the training will go on from a checkpoint, with the evaluation that was under way there.
                Otherwise a training that begins at step 0 deletes the evaluations in its folder.

        Raises:
            ConfigError: For a model that is spread over processes, and as for `check`.
        """
        check_whole(
            trainer,
            "evaluation",
            "the held-out conversations",
            "leave it out, and evaluate the checkpoints by `collab-agents evaluate`",
        )
        self.check(trainer.args)
        player = getattr(trainer, "player", None)
        self._player = player if player is not None and player.samples else None
        engine: Engine
        if self._player is not None:
            engine = self._player.engine
        else:
            model = base_of(trainer.accelerator.unwrap_model(trainer.model))
            engine = TransformersEngine(model, trainer.processing_class, max_batch_size=self._batch_size)
        chat = LocalChatModel.over(engine, name=_SIDE, label="the model in training", **self._sampling)
        self._assistant = self._make_assistant(chat)
        self._policy = Served(engine)  # For an app, which has its own sampling.
        self._trainer = trainer
        self._goes_on = resume
        trainer.args.load_best_model_at_end = self._load_best
        trainer.add_callback(self)

    def best(self) -> Entry:
        """Return what was logged of the step with the highest reward, the first of equals; empty if there is none."""
        return best_of(evaluations_in(self._trainer.state)) if self._trainer is not None else {}

    def summary(self) -> str | None:
        """Return in a sentence at which step the highest reward was, or None if there is none."""
        if self._trainer is None or not (best := self.best()):
            return None
        state = self._trainer.state
        reward, low, high = (best[name] for name in (REWARD, f"{REWARD}/low", f"{REWARD}/high"))
        kept = "whose model this is" if self._load_best else f"and this is the model of step {state.global_step}"
        told = (
            f"The best held-out reward, {reward:.3f} (95% interval {low:.3f} to {high:.3f}), is that of step "
            f"{best['step']}, {kept}."
        )
        if self._is_over(state):
            count = f"{self._patience} evaluation{'s' if self._patience != 1 else ''}"
            told += f" Training ended after {count} without a better one."
        return told

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        if self._trainer is None:
            raise ConfigError("the evaluation has no trainer: call bind(trainer) instead of passing it as a callback")
        self._due = False
        self._over = self._is_over(state)
        if state.is_world_process_zero:
            self._drop_later(args, state)
        self._point_to_best(args, state)
        if self._over:
            control.should_training_stop = True
        elif self._falls_on(state) and not is_evaluated(state):
            if state.global_step == 0 and _saves(args):
                self._trainer._save_checkpoint(self._trainer.model, None)
            self._evaluate(args, state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self._over or state.global_step > state.max_steps:  # As after a finished training that is resumed.
            return
        if not (self._falls_on(state) or control.should_training_stop):
            return
        if _saves(args):
            self._due = control.should_save = True
        else:
            self._evaluate(args, state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self._due:
            self._due = False
            self._evaluate(args, state, control)

    def _falls_on(self, state: TrainerState) -> bool:
        return state.global_step % self._every == 0 or state.global_step >= state.max_steps

    def _is_over(self, state: TrainerState) -> bool:
        found = evaluations_in(state)
        if self._patience is None or not found:
            return False
        return len(found) - 1 - found.index(best_of(found)) >= self._patience

    def _evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        assert self._trainer is not None
        logs: list[Any] = [None]
        if state.is_world_process_zero:
            if self._player is not None:
                self._player.refresh()
            with same_randomness(), answering(self._trainer.model), serving(self._policy):
                logs = [self._play(args, state)]
        (entry,) = broadcast_object_list(logs)
        should_log = control.should_log
        # Not by the trainer's own `log`, which would add its averages so far, and begin them anew.
        Trainer.log(self._trainer, with_best(entry, state))
        control.should_log = should_log
        self._point_to_best(args, state)
        self._over = self._is_over(state)
        if self._over:
            control.should_training_stop = True
            logger.info("step %d: %s", state.global_step, self.summary())
        checkpoint = _checkpoint(args, state.global_step)
        if state.is_world_process_zero and _saves(args) and checkpoint.is_dir():
            draft = checkpoint / f"{TRAINER_STATE_NAME}.new"
            state.save_to_json(str(draft))
            draft.replace(checkpoint / TRAINER_STATE_NAME)

    def _play(self, args: TrainingArguments, state: TrainerState) -> dict[str, float]:
        """Play all conversations at this step, keep the scorecard, and return what to log."""
        assert self._trainer is not None
        assert self._assistant is not None
        folder = _folder(args, state.global_step)
        folder.mkdir(parents=True, exist_ok=True)
        scorecard = run_sync(
            evaluate(
                self._sets,
                {_SIDE: self._assistant},
                out=folder,
                resume=True,
                private=False,
                progress=None if args.disable_tqdm else ProgressBar(desc="held out", leave=False),
                **self._options,
            )
        )
        text = harmless(scorecard.model_dump_json(indent=2) + "\n")
        (folder / "scorecard.json").write_text(text, encoding="utf-8")
        if self._conversations:
            report_conversations(list(self._first(folder)), state.global_step, self._trainer)
        entry = entry_of(scorecard)
        if failed := entry[FAILED]:
            logger.warning(
                "step %d: %d held-out conversations could not be finished: see failures.jsonl in %s",
                state.global_step,
                failed,
                folder,
            )
        return entry

    def _first(self, folder: Path) -> Iterator[Trajectory]:
        """Yield the conversations of the first tasks of each set that were finished."""
        names = [one.name for one in self._sets]
        runs = run_folders(names, [_SIDE], 1)
        for one in self._sets:
            wanted = [task.id for task in islice(one.tasks, self._conversations)]
            found = {each.task.id: each for each in read_trajectories(folder / runs[one.name, _SIDE, 0])}
            yield from (found[task] for task in wanted if task in found)

    def _drop_later(self, args: TrainingArguments, state: TrainerState) -> None:
        """Delete evaluations of steps that the training has not done, or will do again."""
        last = state.global_step if state.global_step or self._goes_on else -1
        for folder in Path(args.output_dir, EVALUATIONS).glob("step-*"):
            number = folder.name.removeprefix("step-")
            if number.isdecimal() and int(number) > last:
                shutil.rmtree(folder)

    def _point_to_best(self, args: TrainingArguments, state: TrainerState) -> None:
        """Tell the trainer which checkpoint not to delete, and to load at the end."""
        if not (found := evaluations_in(state)):
            return
        best = best_of(found)
        state.best_metric, state.best_global_step = best[REWARD], int(best["step"])
        checkpoint = _checkpoint(args, state.best_global_step)
        state.best_model_checkpoint = str(checkpoint) if checkpoint.is_dir() else None


def check_arguments(args: TrainingArguments, *, load_best: bool) -> None:
    """Raise ConfigError if a trainer with these arguments would choose or keep the best model in another way."""
    for name, chosen in (
        ("load_best_model_at_end", args.load_best_model_at_end),
        ("save_strategy", args.save_strategy == "best"),
        ("metric_for_best_model", args.metric_for_best_model is not None),
    ):
        if chosen:
            raise ConfigError(
                f"trainer.{name}: the held-out evaluation chooses the best model; leave {name} out, or the evaluation"
            )
    if load_best and not _saves(args):
        raise ConfigError(
            "trainer.save_strategy: the best model is loaded from its checkpoint, and there are none: leave "
            "save_strategy out, or set evaluation.load_best to false"
        )


def _saves(args: TrainingArguments) -> bool:
    return args.save_strategy != "no"


def _folder(args: TrainingArguments, step: int) -> Path:
    return Path(args.output_dir, EVALUATIONS, f"step-{step}")


def _checkpoint(args: TrainingArguments, step: int) -> Path:
    return Path(args.output_dir, f"checkpoint-{step}")
