"""What each way to train and to serve comes to on the held-out tasks, with the recipe in `examples/train_collaborator`.

    python -m benchmarks.training --out runs/training
    python -m benchmarks.training --out runs/training --rows untouched sft rounds dpo --seeds 1
    python -m benchmarks.training --out runs/training --rows ablations

Rows, each once a seed, which decides what is generated, trained and played:

    untouched    SmolLM2-135M as it is
    proactive    the same with the library's proactive prompt
    lookahead    the same, choosing each reply among 4 by a future with the task's own user, as in training
    value        the same, choosing each reply among 4 by a value model that was learned on train tasks, without futures
    sft          after the first round of loop.yaml
    rounds       after the best of its rounds
    dpo          `sft`, trained by dpo.yaml on the pairs of the first round
    grpo         `sft`, trained by online/grpo-cpu.yaml: the replies learn
    grpo-tree    the same, and the turns in the futures learn too
    grpo-tree-half    the same with half of the calls
    ppo, online-dpo   `sft`, trained by their files in online/

With `ablations`, `sft` again, after a first round with one setting changed:

    window-0     the reward of a reply looks at no future: the single-turn reward
    window-2     futures of two exchanges instead of one
    futures-3, futures-8   the mean of so many futures instead of one
    no-cost      the reward of a reply leaves the cost of tokens out

But for `grpo-tree-half`, the online trainings get the same number of calls of the model. Each model plays the 48
held-out tasks once a seed, all with the same users and seeds; differences are to `untouched`, to `sft`, and of the
online trainings to `dpo` and `grpo`. A step whose result is in the folder is not repeated, so the same command goes on
after an interruption. One seed of all rows takes about four hours on two cores. `results.json` there has everything
that is printed.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.recipe import recipe
from benchmarks.steps import Commands, Steps, is_done
from benchmarks.trained import Results, alone, cells, compared, read_played, table
from collab_agents.runs.directory import read_totals
from collab_agents.runs.evaluate import run_folders

MEASURES = ("reward", "fact_coverage", "asks_first", "assistant_ktokens", "user_tokens")
SERVED = ("untouched", "proactive", "lookahead", "value")
ONLINE = ("grpo", "grpo-tree", "grpo-tree-half", "ppo", "online-dpo")
ROWS = (*SERVED, "sft", "rounds", "dpo", *ONLINE)
ABLATIONS: dict[str, dict[str, int]] = {
    "window-0": {"window": 0},
    "window-2": {"window": 2},
    "futures-3": {"futures": 3},
    "futures-8": {"futures": 8},
    "no-cost": {},
}
MODEL = "smollm2"
CANDIDATES = 4

Settings = dict[str, Any]


class Seed:
    """The folder of a seed, and the commands that fill it."""

    def __init__(self, folder: Path, number: int, calls: int) -> None:
        self.folder = folder / f"seed-{number}"
        self.number = number
        self.calls = calls
        (self.folder / "configs").mkdir(parents=True, exist_ok=True)

    def commands(self, row: str) -> Commands:
        """Return what a row takes, in order. Rows share commands, which are not repeated."""
        if row == "lookahead":
            return [self._lookahead()]
        if row == "value":
            return [*self._value(), self._evaluate(row, MODEL)]
        if row in SERVED:
            return [self._evaluate(row, MODEL)]
        loop = self._loop()
        if row in ABLATIONS:
            return [*self._ablate(row), self._evaluate(row, str(self.folder / row / "model"))]
        if row == "rounds":
            return [loop, self._evaluate(row, str(self.loop / "best"))]
        if row == "sft":
            return [loop, self._evaluate(row, self.sft)]
        return [loop, *self._train(row), self._evaluate(row, str(self.folder / row / "model"))]

    @property
    def loop(self) -> Path:
        return self.folder / "loop"

    @property
    def sft(self) -> str:
        return str(self.loop / "round-1/sft-model")

    def played(self, row: str) -> Path:
        """The run of the held-out conversations."""
        if row == "lookahead":
            return self.folder / row
        (run,) = run_folders(["offline"], [row], 1).values()
        return self.folder / "scores" / row / run

    def _loop(self) -> list[str]:
        settings = recipe("loop")
        for one in settings["generate"]:
            generation = recipe(one["config"].removesuffix(".yaml"))
            one["config"] = {**generation, "seed": self.number}
        for one in settings["train"]:
            one["config"] = self._seeded(recipe(one["config"].removesuffix(".yaml")))
        del settings["test"]
        return ["improve", "--config", self._written("loop", settings), "--out", str(self.loop)]

    def _ablate(self, row: str) -> Commands:
        settings = {**recipe("generate"), "seed": self.number}
        settings["lookahead"] |= ABLATIONS[row]
        if row == "no-cost":
            settings["judges"] = [
                {**one, "weight": 0.0} if one["name"] == "token_cost" else one for one in settings["judges"]
            ]
        trajectories = str(self.folder / row / "trajectories")
        training = self._seeded(recipe("sft"))
        training["model"]["name"], training["data"]["runs"] = MODEL, [trajectories]
        return [
            ["generate", "--config", self._written(f"generate-{row}", settings), "--out", trajectories],
            *self._trained(row, "sft", training),
        ]

    def _train(self, row: str) -> Commands:
        method = row.removesuffix("-half").removesuffix("-tree")
        settings = self._seeded(recipe("dpo" if row == "dpo" else f"online/{method}-cpu"))
        settings["model"]["name"] = self.sft
        settings["data"]["runs"] = [str(self.loop / "round-1/trajectories")]
        if row != "dpo":
            calls = self.calls // 2 if row.endswith("-half") else self.calls
            settings["trainer"]["max_steps"] = calls // _calls_of_a_step(method, settings)
        if row.startswith("grpo-tree"):
            settings["trainer"]["learn"] = "tree"
        return self._trained(row, method, settings)

    def _trained(self, row: str, method: str, settings: Settings) -> Commands:
        adapter = str(self.folder / row / "adapter")
        return [
            ["train", method, "--config", self._written(f"train-{row}", settings), "--out", adapter],
            ["merge", "--adapter", adapter, "--out", str(self.folder / row / "model")],
        ]

    def _lookahead(self) -> list[str]:
        settings = self._playing("generate-again", MODEL)
        settings["assistant"]["model"] |= {"max_tokens": 96, "temperature": 0.6}
        settings["tasks"] = recipe("trained")["tasks"]
        settings["judges"] += [{"name": name, "weight": 0.0} for name in ("assistant_tokens", "user_tokens")]
        return ["generate", "--config", self._written("lookahead", settings), "--out", str(self.folder / "lookahead")]

    def _value(self) -> Commands:
        """The value of the untouched model's replies, from its own on train tasks."""
        settings = self._playing("generate-again", MODEL)
        settings["tasks"]["limit"] = 80
        settings["lookahead"]["futures"] = 2  # Their differences show how noisy they are.
        trajectories, value = str(self.folder / "value-trajectories"), str(self.folder / "value")
        return [
            ["generate", "--config", self._written("value-trajectories", settings), "--out", trajectories],
            ["train", "value", "--from", trajectories, "--out", value],
        ]

    def _evaluate(self, row: str, model: str) -> list[str]:
        settings = self._playing("trained", model)
        if row == "proactive":
            settings["assistant"]["proactive"] = True
        if row == "value":
            options = {"candidates": CANDIDATES, "value": str(self.folder / "value"), **settings["assistant"]["model"]}
            settings["assistant"] = {"app": "benchmarks.best_of:assistant", "options": options}
        config = self._written(row, settings)
        return ["evaluate", "--config", config, "--out", str(self.folder / "scores" / row)]

    def _playing(self, name: str, model: str) -> Settings:
        settings = {**recipe(name), "seed": self.number}
        settings["assistant"]["model"]["name"] = f"local:{model}"
        return settings

    def _seeded(self, settings: Settings) -> Settings:
        settings["trainer"] |= {"seed": self.number, "report_to": "none"}
        return settings

    def _written(self, name: str, settings: Mapping[str, Any]) -> str:
        file = self.folder / "configs" / f"{name}.yaml"
        file.write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
        return str(file)


def _calls_of_a_step(method: str, settings: Settings) -> int:
    trainer, reward = settings["trainer"], settings["reward"]
    replies = trainer["per_device_train_batch_size"] * (2 if method == "online-dpo" else 1)
    calls: int = replies * (1 + reward["futures"] * reward["window"])
    return calls // trainer.get("num_iterations", 1)


def play(folder: Path, given: argparse.Namespace) -> Iterator[str]:
    """Run all steps, and yield after each row. What the time limit leaves out is not an error."""
    steps = Steps(folder / "logs", parallel=1, seconds=given.seconds)
    for number in range(given.seeds):
        seed = Seed(folder, number, given.calls)
        for row in rows_of(given):
            done = steps.run(f"seed-{number}-{row}", seed.commands(row))
            yield f"seed {number}: {'' if done else 'no '}{row}"


def rows_of(given: argparse.Namespace) -> list[str]:
    return [row for name in given.rows for row in (ABLATIONS if name == "ablations" else [name])]


def results(folder: Path, given: argparse.Namespace) -> Results:
    """Return what the folder shows so far."""
    seeds = [Seed(folder, number, given.calls) for number in range(given.seeds)]
    rows = [*ROWS, *ABLATIONS]
    done = {row: [one for one in seeds if is_done(one.commands(row))] for row in rows}
    played = {
        row: {one.number: read_played([one.played(row)]) for one in having} for row, having in done.items() if having
    }
    found: Results = {"rows": {}, "differences": []}
    for row, by_seed in played.items():
        found["rows"][row] = {
            **alone(row, list(by_seed.values()), MEASURES),
            "training_calls": [_training_calls(one, row) for one in done[row]],
        }
    pairs = [(row, "untouched") for row in played if row != "untouched"]
    pairs += [(row, "sft") for row in ("rounds", "dpo", *ONLINE, *ABLATIONS)]
    pairs += [(row, "dpo") for row in ("rounds", *ONLINE)]
    pairs += [(row, "grpo") for row in ONLINE if row != "grpo"]
    for row, other in pairs:
        both = [number for number in played.get(row, {}) if number in played.get(other, {})]
        if both:
            first, second = ([played[name][number] for number in both] for name in (row, other))
            found["differences"].append({"of": row, "to": other, **compared(first, second, MEASURES)})
    return found


def _training_calls(seed: Seed, row: str) -> int | None:
    """Return the calls of the model in training that an online training took."""
    log = seed.folder / row / "adapter/training_log.json"
    if row in ONLINE and log.exists():
        entries = json.loads(log.read_text(encoding="utf-8"))
        return round(sum(entry.get("tree/calls", 0) for entry in entries))
    if row in ABLATIONS:
        runs = [seed.folder / row]
    else:
        rounds = {"dpo": [1], "sft": [1], "rounds": [1, 2, 3]}.get(row, [])
        runs = [seed.loop / f"round-{number}" for number in rounds]
    totals = [read_totals(run) for one in runs if (run := one / "trajectories").exists()]
    return sum(one.get("calls", 0) for one in totals) or None


def tables(found: Results) -> Iterator[Table]:
    rows = table("Held-out tasks", "", "seeds", *MEASURES, "reward by seed", "calls to learn from")
    for name, one in found["rows"].items():
        calls = " ".join(f"{number:,}" for number in one["training_calls"] if number)
        rows.add_row(name, str(one["training_seeds"]), *cells(one, MEASURES), calls)
    yield rows
    differences = table("Differences", "", "minus", "seeds", *MEASURES, "reward by seed")
    for one in found["differences"]:
        differences.add_row(one["of"], one["to"], str(one["training_seeds"]), *cells(one, MEASURES, "+"))
    yield differences


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True, help="the folder; with results, the same command goes on")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, "ablations", *ABLATIONS], default=ROWS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=2880, help="of the model in each online training")
    parser.add_argument("--seconds", type=float, default=1e9, help="after which it ends with what there is")
    given = parser.parse_args()
    folder, console = given.out.resolve(), Console(width=200)
    for event in play(folder, given):
        console.print(event)
        found = results(folder, given)
        (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for one in tables(found):
        console.print(one)


if __name__ == "__main__":
    main()
