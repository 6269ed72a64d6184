"""Which pairs should DPO learn from: those with a large gap, or those that are probably right?

    python -m benchmarks.preferences --out runs/preferences
    python -m benchmarks.preferences --out runs/preferences --arms gap:0.1 probability:0.9 random:0.9 --parallel 6

One run of `examples/train_collaborator` with several futures a candidate is made, and one SFT model of it. Each arm
selects pairs of that run, at equal calls, and trains the SFT model with them by DPO, once a seed:

    gap:G          minimum_gap G
    probability:P  minimum_probability P
    largest:P      as many pairs as probability:P, those with the largest gaps
    random:P       as many pairs as probability:P, drawn from all pairs of different reward
    single:G       minimum_gap G with the first future alone
    early:P        minimum_probability P, of as many tasks as could be played for the calls of single:G

The last two cost fewer calls than the others, and both the same. A probability is that of all futures, whatever an arm
looks at. With equally many futures a candidate, the probability of a pair depends on its gap alone, so that
`probability:P` and `largest:P` are the same pairs: what P adds is the gap that it takes, given the noise.

All models then play the held-out tasks with the same users and seeds. The last column shows what another training seed
changes, see `trained.py`. A step whose result is in the folder is not repeated, so the same command goes on after an
interruption. `results.json` there has everything that is printed.
"""

import argparse
import json
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import yaml
from datasets import disable_progress_bars
from rich.console import Console
from rich.table import Table

from benchmarks.recipe import recipe
from benchmarks.steps import DONE, Commands, Steps
from benchmarks.trained import Conversations, Results, alone, cells, compared, read_played, table
from collab_agents import Trajectory, offline_tasks, read_trajectories, reliability
from collab_agents.errors import ConfigError
from collab_agents.runs.directory import read_totals
from collab_agents.runs.evaluate import run_folders
from collab_agents.training import Made, preference_rows, read_all, save_rows
from collab_agents.training.published import Row
from collab_agents.trajectories import Candidate

MEASURES = ("reward", "fact_coverage", "assistant_ktokens")
RULES = ("gap", "probability", "largest", "random", "single", "early")
MAY_CHANGE = {"out", "arms", "seeds", "concurrency", "parallel", "seconds"}
"""The options that may be others when a folder is continued."""
EVERY = 1e-9
"""A minimum probability that every pair has."""


class Study:
    """The folder with its configurations, and the commands that fill it."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.folder: Path = given.out.resolve()
        self.runs = [self.folder / "trajectories" / str(number) for number in range(given.shards)]
        for name in ("configs", "pairs", "trajectories"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._check_same(self.folder / "options.json")

    @property
    def options(self) -> Results:
        return {key: str(value) if isinstance(value, Path) else value for key, value in vars(self.given).items()}

    def _check_same(self, file: Path) -> None:
        now = {key: value for key, value in self.options.items() if key not in MAY_CHANGE}
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else now
        if before != now:
            raise SystemExit(f"{self.folder} was made with {before}, and now it is {now}: choose another folder")
        file.write_text(json.dumps(now), encoding="utf-8")

    def generate(self, shard: int) -> Commands:
        given, settings = self.given, recipe("generate")
        tasks = offline_tasks("train")[: given.tasks][shard :: given.shards]
        source = self.folder / "configs" / f"tasks-{shard}.jsonl"
        source.write_text("".join(f"{one.model_dump_json()}\n" for one in tasks), encoding="utf-8")
        settings["tasks"] = {"source": str(source)}
        settings["lookahead"]["futures"] = given.futures
        self._play(settings, given.model)
        return [["generate", "--config", self._written(f"generate-{shard}", settings), "--out", str(self.runs[shard])]]

    def sft(self) -> Commands:
        settings = recipe("sft")
        settings["model"]["name"] = self.given.model
        settings["data"]["runs"] = [str(run) for run in self.runs]
        return self._train("sft", "sft", settings, 0, self.given.sft)

    def dpo(self, arm: str, seed: int) -> Commands:
        settings = recipe("dpo")
        settings["model"]["name"] = str(self.model("sft"))
        settings["data"] = {"dataset": str(self.pairs(arm))}
        name = trained(arm, seed)
        return [*self._train(name, "dpo", settings, seed, self.given.dpo), *self.evaluate(name)]

    def evaluate(self, name: str) -> Commands:
        settings = recipe("trained")
        settings["tasks"]["limit"] = self.given.held_out
        self._play(settings, self.given.model if name == "untouched" else str(self.model(name)))
        config, repeats = self._written(name, settings), str(self.given.repeats)
        return [["evaluate", "--config", config, "--repeats", repeats, "--out", str(self.scores(name))]]

    def model(self, name: str) -> Path:
        return self.folder / name / "model"

    def scores(self, name: str) -> Path:
        return self.folder / name / "scores"

    def pairs(self, arm: str) -> Path:
        return self.folder / "pairs" / folder_name(arm)

    def conversations(self, name: str) -> list[Path]:
        """The runs of a model on the held-out tasks, one a repeat."""
        folders = run_folders(["offline"], [name], self.given.repeats).values()
        return [self.scores(name) / folder for folder in folders]

    def _play(self, settings: dict[str, Any], model: str) -> None:
        options = settings["assistant"]["model"].get("options", {})
        settings["assistant"]["model"] |= {"name": f"local:{model}", "options": options | self.given.options}
        settings["limits"] = {"max_concurrency": self.given.concurrency}

    def _train(
        self, name: str, method: str, settings: dict[str, Any], seed: int, trainer: Mapping[str, Any]
    ) -> Commands:
        settings["trainer"] |= {"seed": seed, "save_strategy": "no", "report_to": "none", **trainer}
        config, adapter = self._written(f"train-{name}", settings), str(self.folder / name / "adapter")
        return [
            ["train", method, "--config", config, "--out", adapter],
            ["merge", "--adapter", adapter, "--out", str(self.model(name))],
        ]

    def _written(self, name: str, settings: Mapping[str, Any]) -> str:
        file = self.folder / "configs" / f"{name}.yaml"
        file.write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
        return str(file)


def folder_name(arm: str) -> str:
    return arm.replace(":", "-")


def trained(arm: str, seed: int) -> str:
    return f"{folder_name(arm)}-seed-{seed}"


def make_pairs(study: Study) -> list[Results]:
    """Save the pairs of each arm, and describe them."""
    trajectories = list(read_all(study.runs))
    likely = list(preference_rows(trajectories, minimum_probability=EVERY, pairs="all").dataset())
    probabilities = {_key(row): row["probability"] for row in likely}
    probabilities |= {_key(row, turned=True): 1 - row["probability"] for row in likely}
    described: list[Results] = []
    seen: dict[frozenset[str], str] = {}
    for arm in study.given.arms:
        try:
            rows = select(arm, trajectories, study.given.futures)
        except ConfigError as error:
            described.append({"arm": arm, "pairs": 0, "same_as": None, "reason": str(error)})
            continue
        same = seen.setdefault(frozenset(map(_key, rows)), arm)
        sure = [probabilities.get(_key(row), 0.5) for row in rows]
        gaps = [_gap(row) for row in rows]
        described.append(
            {
                "arm": arm,
                "pairs": len(rows),
                "mean_gap": statistics.fmean(gaps),
                "smallest_gap": min(gaps),
                "mean_probability": statistics.fmean(sure),
                "smallest_probability": min(sure),
                "same_as": None if same == arm else same,
            }
        )
        if same == arm and not study.pairs(arm).exists():
            _save(study.pairs(arm), arm, rows, sure, len(trajectories))
    return described


def select(arm: str, trajectories: Sequence[Trajectory], futures: int) -> list[Row]:
    rule, number = arm.split(":")
    value = float(number)
    if rule == "gap":
        return list(preference_rows(trajectories, minimum_gap=value).dataset())
    if rule == "single":
        return list(preference_rows(map(_first_futures, trajectories), minimum_gap=value).dataset())
    rows = list(preference_rows(trajectories, minimum_probability=value).dataset())
    if rule == "early":
        # A future is one call more, for the reply after the user's: see `window` in the recipe.
        tasks = sorted(one.task.id for one in trajectories)
        return [row for row in rows if row["task_id"] in tasks[: len(tasks) * 2 // (1 + futures)]]
    if rule == "probability":
        return rows
    everything = list(preference_rows(trajectories).dataset())
    if rule == "largest":
        return sorted(everything, key=_gap, reverse=True)[: len(rows)]
    return random.Random(0).sample(everything, len(rows))


def _first_futures(one: Trajectory) -> Trajectory:
    turns = [turn.model_copy(update={"candidates": list(map(_first_future, turn.candidates))}) for turn in one.turns]
    return one.model_copy(update={"turns": turns})


def _first_future(one: Candidate) -> Candidate:
    first = one.futures[:1]
    return one.model_copy(update={"futures": first, "reward": first[0].reward if first else None})


def _gap(row: Row) -> float:
    return row["score_chosen"] - row["score_rejected"]


def _key(row: Row, *, turned: bool = False) -> str:
    replies = ("rejected", "chosen") if turned else ("chosen", "rejected")
    return json.dumps([row[column] for column in ("task_id", "prompt", *replies)])


def _save(folder: Path, arm: str, rows: list[Row], probabilities: list[float], trajectories: int) -> None:
    made = Made("preference")
    made.made_from = trajectories
    for row, probability in zip(rows, probabilities, strict=True):
        plain = {key: value for key, value in row.items() if key != "probability"}
        made.add(plain, reward=row["score_chosen"], probability=probability)
    save_rows(made, folder, how={"arm": arm})


def play(study: Study) -> Iterator[str]:
    """Run all steps, and yield after each result. What a time limit leaves out is not an error."""
    given = study.given
    steps = Steps(study.folder / "logs", parallel=given.parallel, seconds=given.seconds)
    with ThreadPoolExecutor(given.parallel) as threads:
        shards = [threads.submit(steps.run, f"generate-{one}", study.generate(one)) for one in range(given.shards)]
        models = {threads.submit(steps.run, "untouched", study.evaluate("untouched")): "untouched"}
        if not all(one.result() for one in shards):
            yield "no trajectories"
            return
        yield "trajectories"
        sft = threads.submit(steps.run, "sft", study.sft())
        arms = make_pairs(study)
        (study.folder / "pairs.json").write_text(json.dumps(arms, indent=1), encoding="utf-8")
        yield "pairs"
        if not sft.result():
            yield "no SFT model"
            return
        yield "SFT model"
        models |= _models(study, steps, threads, [one["arm"] for one in arms if one["pairs"] and not one["same_as"]])
        for one in as_completed(models):
            yield f"{'' if one.result() else 'no '}scores of {models[one]}"


def _models(study: Study, steps: Steps, threads: ThreadPoolExecutor, arms: Sequence[str]) -> dict[Future[bool], str]:
    # All arms of one seed first, so that a time limit leaves arms of the same seeds.
    chains = {"sft": study.evaluate("sft")}
    chains |= {trained(arm, seed): study.dpo(arm, seed) for seed in range(study.given.seeds) for arm in arms}
    return {threads.submit(steps.run, name, chain): name for name, chain in chains.items()}


def results(study: Study) -> Results:
    """Return what the folder shows so far."""
    folder = study.folder
    file = folder / "pairs.json"
    arms: list[Results] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    found: Results = {"options": study.options, "seconds": _seconds(folder), "calls": _calls(study)}
    if all((run / DONE).exists() for run in study.runs):
        found["reliability"] = _reliability(study)
    found["arms"] = [one | {"steps": _optimizer_steps(study, one["arm"])} for one in arms]
    played = _played(study, [one["arm"] for one in arms])
    found["models"] = {name: alone(name, seeds, MEASURES) for name, seeds in played.items()}
    found["differences"] = [
        {"of": name, "to": other, **compared(played[name], played[other], MEASURES)}
        for other in ("sft", *study.given.arms)
        for name in played
        if other in played and name not in (other, "untouched")
        if other == "sft" or _precedes(study, other, name)
    ]
    return found


def _precedes(study: Study, one: str, other: str) -> bool:
    order = ["sft", *study.given.arms]
    return other in order and order.index(one) < order.index(other) and other != "sft"


def _reliability(study: Study) -> Results:
    found = reliability(one for run in study.runs for one in read_trajectories(run))
    return {"turns": found.turns, "advice": found.advice, **found.reward.model_dump()}


def _seconds(folder: Path) -> dict[str, float]:
    return {
        str(file.parent.relative_to(folder)): round(json.loads(file.read_text(encoding="utf-8"))["seconds"], 1)
        for file in sorted(folder.rglob(DONE))
    }


def _calls(study: Study) -> dict[str, int]:
    runs = {"trajectories": study.runs}
    for scores in sorted(study.folder.glob("*/scores")):
        runs[scores.parent.name] = study.conversations(scores.parent.name)
    return {name: sum(read_totals(one).get("calls", 0) for one in folders) for name, folders in runs.items()}


def _optimizer_steps(study: Study, arm: str) -> int | None:
    for seed in range(study.given.seeds):
        log = study.folder / trained(arm, seed) / "adapter" / "training_log.json"
        if log.exists():
            return max(entry["step"] for entry in json.loads(log.read_text(encoding="utf-8")))
    return None


def _played(study: Study, arms: Sequence[str]) -> dict[str, Conversations]:
    """The finished conversations by model, and by training seed; a seed without a scorecard is left out."""
    names = {one: [one] for one in ("untouched", "sft")}
    names |= {arm: [trained(arm, seed) for seed in range(study.given.seeds)] for arm in arms}
    found = {
        model: [read_played(study.conversations(name)) for name in each_seed if (study.scores(name) / DONE).exists()]
        for model, each_seed in names.items()
    }
    return {model: seeds for model, seeds in found.items() if seeds}


def tables(found: Results) -> Iterator[Table]:
    arms = table("Pairs", "arm", "pairs", "mean gap", "smallest", "mean probability", "smallest", "optimizer steps")
    for one in found["arms"]:
        if not one["pairs"]:
            arms.add_row(one["arm"], "0", one["reason"])
            continue
        numbers = [one[key] for key in ("mean_gap", "smallest_gap", "mean_probability", "smallest_probability")]
        steps = f"as {one['same_as']}: same pairs" if one["same_as"] else str(one["steps"] or "")
        arms.add_row(one["arm"], str(one["pairs"]), *(f"{number:.3f}" for number in numbers), steps)
    yield arms
    models = table("Held-out tasks", "model", "training seeds", *MEASURES, "reward by training seed")
    for name, one in found["models"].items():
        models.add_row(name, str(one["training_seeds"]), *cells(one, MEASURES))
    yield models
    differences = table("Differences", "model", "minus", "training seeds", *MEASURES, "reward by training seed")
    for one in found["differences"]:
        differences.add_row(one["of"], one["to"], str(one["training_seeds"]), *cells(one, MEASURES, "+"))
    yield differences


def arm_of(text: str) -> str:
    rule, _, number = text.partition(":")
    if rule not in RULES or not 0 <= float(number) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(RULES)} with a number below 1, as in gap:0.1")
    return text


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True, help="the folder; with results, the same command goes on")
    parser.add_argument("--model", default="smollm2", help='"smollm2" or a folder')
    parser.add_argument("--options", type=json.loads, default={}, help="of local models, as JSON")
    parser.add_argument("--tasks", type=int, default=80, help="of the train split, at most 192")
    parser.add_argument("--futures", type=int, default=4)
    parser.add_argument("--shards", type=int, default=1, help="processes that play the train split")
    arms = ["gap:0.1", "probability:0.9", "largest:0.9", "random:0.9", "single:0.1", "early:0.9"]
    parser.add_argument("--arms", nargs="+", type=arm_of, default=arms)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each arm")
    parser.add_argument("--held-out", type=int, default=48, help="tasks of the test split, at most 48")
    parser.add_argument("--repeats", type=int, default=4, help="conversations a held-out task")
    parser.add_argument("--concurrency", type=int, default=256, help="conversations of a process at once")
    parser.add_argument("--parallel", type=int, default=1, help="processes at once")
    parser.add_argument("--sft", type=json.loads, default={}, help="keys of SFT's trainer that replace the recipe's")
    parser.add_argument("--dpo", type=json.loads, default={}, help="keys of DPO's trainer that replace the recipe's")
    parser.add_argument("--seconds", type=float, default=1e9, help="after which it ends with what there is")
    return parser.parse_args()


def main() -> None:
    disable_progress_bars()
    study = Study(arguments())
    console = Console(width=160)
    for event in play(study):
        console.print(event)
        found = results(study)
        (study.folder / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for one in tables(found):
        console.print(one)
    console.print(f"calls: {found['calls']}")
    if "reliability" in found:
        console.print(found["reliability"]["advice"])


if __name__ == "__main__":
    main()
