"""`improve`: rounds of generate, train and evaluate, each from the model of the round before."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table
from rich.text import Text

from collab_agents.cli.checks import check_loop
from collab_agents.cli.evaluate import wide_console
from collab_agents.cli.steps import run_step
from collab_agents.errors import CollabError, RunDirectoryError
from collab_agents.models.sources import ADAPTER
from collab_agents.runs.scorecard import Scorecard
from collab_agents.training.curves import plot_rounds
from collab_agents.training.loop import Loop, Training, read_loop
from collab_agents.training.made_from import read_made_from
from collab_agents.training.played import Raw, played_by
from collab_agents.training.rounds import (
    IMPROVE,
    HeldOut,
    Mean,
    Round,
    Rounds,
    Step,
    Test,
    held_out,
    mean_of,
    read_rounds,
    write_rounds,
)
from collab_agents.view.curves import LOG

_MAY_CHANGE = {"rounds", "patience", "most_failures", "test"}
"""Keys of loop.yaml that may differ when a loop is resumed: they decide how long it goes on, not what a round is.

`test` may not once it was played."""


class StepError(CollabError):
    """A step of a loop failed."""


def improve(path: Path, out: Path, *, resume: bool) -> None:
    """Run the loop to its end, or go on with the one in `out`.

    Raises:
        ConfigError: For a file that is invalid, before anything is started.
        RunDirectoryError: If `out` is in use, or was made with other settings.
        StepError: If a step fails, or leaves too many tasks or conversations unplayed.
    """
    loop = read_loop(path)
    if not resume and (out / IMPROVE).exists():
        raise RunDirectoryError(f"{out} already holds a loop: continue it with --resume, or choose another directory")
    if out.exists() and not (out / IMPROVE).exists() and any(one.name != "improve.lock" for one in out.iterdir()):
        raise RunDirectoryError(f"{out} is not empty: choose another directory")
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / "improve.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunDirectoryError(f"{out} is in use by another process; wait for it to end") from error
    try:
        _Improvement(loop, out, _record(loop, path, out)).run()
    finally:
        lock.release()


def _record(loop: Loop, path: Path, out: Path) -> Rounds:
    """Return the record of the loop in `out`, begun if there is none."""
    config = json.loads(json.dumps(loop.dump(), default=str))
    if not (out / IMPROVE).exists():
        with Console().status("checking the configuration ..."):
            record = Rounds(config=config, tasks=check_loop(path))
        write_rounds(record, out)
        return record
    record = read_rounds(out)
    before, now = dict(_leaves(record.config)), dict(_leaves(config))
    may_change = _MAY_CHANGE if record.test is None else _MAY_CHANGE - {"test"}
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key) and key.partition(".")[0] not in may_change:
            raise RunDirectoryError(
                f"{out} was made with {key} = {before.get(key)!r}, and now it is {now.get(key)!r}: resume with the "
                "same settings, or choose another directory"
            )
    return record.model_copy(update={"config": config})


def _leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [leaf for key, one in value.items() for leaf in _leaves(one, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list) and value:
        return [leaf for index, one in enumerate(value) for leaf in _leaves(one, f"{path}.{index}")]
    return [(path, value)]


class _Improvement:
    """A loop under way. What is done is in `record`, which is on disk after each step."""

    def __init__(self, loop: Loop, out: Path, record: Rounds) -> None:
        self._loop = loop
        self._out = out.resolve()
        self._shown = out
        self._record = record
        self._console = wide_console()

    def run(self) -> None:
        self._record.ended = None
        self._evaluate(self._record.round(0), self._loop.config.model)
        while (why := self._why_ended()) is None:
            self._round(self._next)
        self._test()
        self._record.ended = why
        self._link_best()
        self._save()
        self._console.print(f"The loop has ended: {why}. {self._best_words()}", soft_wrap=True, highlight=False)

    @property
    def _next(self) -> int:
        """The round to play: the first that is not evaluated."""
        return sum(one.reward is not None for one in self._record.rounds)

    def _why_ended(self) -> str | None:
        config, last, best = self._loop.config, self._next - 1, self._record.best or 0
        if last - best >= config.patience:
            return f"{last - best} {'round' if last - best == 1 else 'rounds'} without a better held-out reward"
        if last >= config.rounds:
            return f"all {last} rounds are done" if last > 1 else "the round is done"
        return None

    def _round(self, number: int) -> None:
        this, model = self._record.round(number), self._model_after(number - 1)
        trainings = [one for one in self._loop.trainings if one.is_in(number)]
        if any(one.needs_runs for one in trainings):
            self._generate(this, model)
        for one in trainings:
            model = self._train(this, one, model)
        self._evaluate(this, model)

    def _generate(self, this: Round, model: str) -> None:
        index = self._loop.generation_in(this.number)
        assert index is not None
        generation, tasks = self._loop.generations[index], self._record.tasks[index]

        def work() -> None:
            file = self._write(this, "generate", self._loop.generating(this.number, generation, model))
            run = self._folder(this) / "trajectories"
            code = self._run(this, "generate", "--config", file, "--out", run, "--resume")
            totals = json.loads((run / "run.json").read_text(encoding="utf-8")).get("totals", {}) if code == 1 else {}
            failed, finished = totals.get("failures", 0), totals.get("trajectories", 0)
            self._check(this, "generate", code, failed, failed + finished == tasks, finished)

        self._do(this, "generate", work)

    def _train(self, this: Round, training: Training, model: str) -> str:
        """Train on a model, and return the folder of the trained one."""
        name, folder = training.name, self._folder(this) / training.name
        raw = training.filled(model, [str(run) for run in self._runs(this)])

        def train() -> None:
            file = self._write(this, name, raw)
            # A kill may have come after the training and before it was recorded.
            if not _is_trained(folder):
                method = training.method.value
                code = self._run(this, "train", method, "--config", file, "--out", folder, "--resume")
                self._check(this, name, code)
            if found := read_made_from(folder):
                this.data[name] = found

        self._do(this, name, train)
        if not (folder / ADAPTER).exists():
            return str(folder)
        merged = folder.with_name(f"{name}-model")

        def merge() -> None:
            if not merged.exists():
                self._check(this, "merge", self._run(this, "merge", "--adapter", folder, "--out", merged))

        self._do(this, f"merge {name}", merge)
        return str(merged)

    def _evaluate(self, this: Round, model: str) -> None:
        def work() -> None:
            this.model = self._relative(model)
            scorecard = self._play(this, self._loop.evaluate, self._out / "evaluation", self._folder(this))
            shutil.copy(self._out / "evaluation" / "scorecard.json", self._folder(this) / "scorecard.json")
            this.sets = held_out(scorecard, f"round-{this.number}")
            this.reward, this.difference = self._means(this.sets)
            self._record.choose_best()
            self._link_best()
            plot_rounds(self._record, self._out / "rounds.svg")

        if self._do(this, "evaluate", work):
            self._print()

    def _test(self) -> None:
        """Let the best round play the tasks that nothing was chosen on."""
        best, raw = self._record.best, self._loop.test
        if raw is None or best is None or (self._record.test and self._record.test.round == best):
            return
        out, this = self._out / "test", self._record.rounds[best]
        scorecard = self._play(this, raw, out, out)
        sets = held_out(scorecard, f"round-{best}")
        reward, difference = self._means(sets)
        self._record.test = Test(round=best, sets=sets, reward=reward, difference=difference)
        self._console.print(f"Test of round {best}: reward {_shown(reward)}{_against(difference)}", highlight=False)

    def _play(self, this: Round, raw: Raw, out: Path, files: Path) -> Scorecard:
        """Let a round's model play held-out tasks, and round 0's if it has not yet. Returns the scorecard of both."""
        command: list[str | Path] = ["evaluate", "--config", self._write_evaluation(this, raw, files)]
        if this.number:
            first = self._record.rounds[0]
            command += ["--against", self._write_evaluation(first, raw, self._folder(first) if files != out else out)]
        card = out / "scorecard.json"
        card.unlink(missing_ok=True)  # One of an earlier round must not be taken for this one's.
        repeats = str(self._loop.config.repeats)
        code = self._run(this, *command, "--out", out, "--repeats", repeats, "--resume")
        scorecard = Scorecard(sets=[])
        if code in (0, 1) and card.exists():
            scorecard = Scorecard.model_validate_json(card.read_text(encoding="utf-8"))
        sides = [side for one in scorecard.sets for side in one.sides]
        failed, finished = sum(one.failed for one in sides), sum(one.finished for one in sides)
        self._check(this, out.name, code, failed, bool(sides), finished)
        return scorecard

    def _write_evaluation(self, this: Round, raw: Raw, folder: Path) -> Path:
        model = self._model_after(this.number)
        folder.mkdir(parents=True, exist_ok=True)
        return _written(folder / f"round-{this.number}.yaml", played_by(raw, model))

    def _do(self, this: Round, step: str, work: Callable[[], None]) -> bool:
        """Do a step that is not done, and record it. Returns whether there was anything to do."""
        if this.is_done(step):
            return False
        self._folder(this).mkdir(exist_ok=True)
        start = time.monotonic()
        work()
        this.steps.append(Step(name=step, seconds=round(time.monotonic() - start, 1)))
        self._save()
        return True

    def _run(self, this: Round, *words: str | Path) -> int:
        """Run a command, and return its exit code."""
        title = " ".join(map(str, words[: 2 if words[0] == "train" else 1]))
        self._console.print(Text(f"Round {this.number}: {title}", "bold"))
        return run_step([str(word) for word in words], self._out / "step.lock")

    def _check(
        self, this: Round, step: str, code: int, failed: int = 0, complete: bool = False, finished: int = 0
    ) -> None:
        """Raise StepError for a step that failed, but for one that was completed with few failures."""
        most = self._loop.config.most_failures
        if code == 0:
            return
        if code == 1 and complete and failed:
            if failed <= most * (failed + finished):
                return
            share = f"{failed} of {failed + finished}"
            raise StepError(
                f"round {this.number}: {share} failed in {step}, and most_failures is {most:g}: "
                "see what is wrong above, and go on with --resume"
            )
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        raise StepError(f"round {this.number}: {step} {how}: see what is wrong above, and go on with --resume")

    def _means(self, sets: dict[str, HeldOut]) -> tuple[Mean, Mean | None]:
        reward = mean_of([one.measures["reward"] for one in sets.values()])
        if reward is None:
            raise StepError("the held-out conversations have no rewards: no judge of evaluate could score them")
        differences = [one.difference["reward"] for one in sets.values() if one.difference]
        return reward, mean_of(differences)

    def _runs(self, this: Round) -> list[Path]:
        """Return the runs that a round learns from."""
        first = 1 if self._loop.config.trajectories == "all" else this.number
        runs = [self._out / f"round-{number}" / "trajectories" for number in range(first, this.number + 1)]
        return [run for run in runs if run.exists()]

    def _model_after(self, number: int) -> str:
        model = self._record.rounds[number].model
        assert model is not None
        if number == 0:
            return str(Path(model).resolve()) if Path(model).is_dir() else model
        return str(self._out / model)

    def _relative(self, model: str) -> str:
        return str(Path(model).relative_to(self._out)) if Path(model).is_relative_to(self._out) else model

    def _folder(self, this: Round) -> Path:
        return self._out / f"round-{this.number}"

    def _write(self, this: Round, name: str, raw: Raw) -> Path:
        return _written(self._folder(this) / f"{name}.yaml", raw)

    def _save(self) -> None:
        write_rounds(self._record, self._out)

    def _link_best(self) -> None:
        """Let `best` lead to the best round's model, if that is one of the loop's."""
        link, best = self._out / "best", self._record.rounds[self._record.best or 0]
        link.unlink(missing_ok=True)
        if best.number and best.model:
            link.symlink_to(best.model)

    def _best_words(self) -> str:
        if not self._record.best:
            return "No round was better than the model that it began with."
        return f"Round {self._record.best} is the best; its model is in {self._shown / 'best'}."

    def _print(self) -> None:
        """Print a line about the round that ended, and a table of all."""
        last = self._record.rounds[-1]
        assert last.reward is not None
        self._console.print(
            f"Round {last.number} of {self._loop.config.rounds}: held-out reward {_shown(last.reward)}"
            f"{_against(last.difference)}",
            highlight=False,
        )
        table = Table()
        for name in ("round", "minutes", "held-out reward", "difference to round 0", ""):
            table.add_column(name, justify="left" if name in ("minutes", "") else "right")
        for one in self._record.rounds:
            steps = ", ".join(f"{step.name} {step.seconds / 60:.1f}" for step in one.steps)
            table.add_row(
                str(one.number),
                steps,
                "-" if one.reward is None else _shown(one.reward),
                "-" if one.difference is None else _shown(one.difference, "+"),
                "best" if one.number == self._record.best else "",
            )
        self._console.print(table)


def _is_trained(folder: Path) -> bool:
    """Whether a training has ended: its log is what it writes last."""
    try:
        return bool(json.loads((folder / LOG).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def _written(file: Path, raw: Raw) -> Path:
    file.write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file


def _shown(mean: Mean, sign: str = "") -> str:
    return f"{mean.value:{sign}.3f} ({mean.low:{sign}.3f} to {mean.high:{sign}.3f})"


def _against(difference: Mean | None) -> str:
    return "" if difference is None else f", {_shown(difference, '+')} to round 0"
