"""Datasets of large runs: the peak of the memory of `collab-agents dataset`, a process each, by the turns in the run.

    python -m benchmarks.datasets                          # 10,000 and 100,000 turns, about 8 minutes
    python -m benchmarks.datasets --turns 1000 10000

A trajectory has 5 turns with 3 candidates of 2 futures each, about 7 KB a turn. Half of a dataset's tasks are held out.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from collab_agents import Task, Trajectory, Usage
from collab_agents.runs.directory import RunDirectory
from collab_agents.trajectories import Candidate, Future, Message, Turn

TURNS, CANDIDATES, FUTURES = 5, 3, 2
KINDS = {
    "sft": [],
    "preference": [],
    "preference, by probability": ["--minimum-probability", "0.6"],
    "prompts": [],
    "nested": [],
    "flat": [],
}
"""What is made, and the command's options."""


def trees(turns: int) -> Iterator[Trajectory]:
    """Yield trajectories with so many turns in all."""
    for number in range(turns // TURNS):
        chance = random.Random(number)
        messages: list[Message] = []
        played = []
        for turn in range(TURNS):
            messages.append(said("user", f"request {number}.{turn}", chance))
            candidates = [candidate(chance) for _ in range(CANDIDATES)]
            chosen = max(range(CANDIDATES), key=lambda index: candidates[index].reward or 0.0)
            played.append(Turn(prompt=list(messages), chosen=chosen, candidates=candidates))
            messages += candidates[chosen].messages
        yield Trajectory(
            task=Task(id=f"task-{number}", goal=f"You want text {number}."),
            seed=number,
            messages=messages,
            stopped="max_turns",
            turns=played,
            reward=chance.random(),
            scores={"token_cost": chance.random()},
            usage=Usage(calls=TURNS * CANDIDATES * (1 + FUTURES), input_tokens=100, output_tokens=10),
        )


def candidate(chance: random.Random) -> Candidate:
    worth = chance.random()
    futures = [
        Future(
            messages=[said("user", "go on", chance), said("assistant", "so", chance)], reward=chance.gauss(worth, 0.1)
        )
        for _ in range(FUTURES)
    ]
    reward = sum(one.reward or 0.0 for one in futures) / FUTURES
    return Candidate(messages=[said("assistant", "well", chance)], reward=reward, futures=futures)


def said(role: str, text: str, chance: random.Random) -> Message:
    return {"role": role, "content": f"{text} {chance.random()} " + "word " * chance.randrange(20, 60)}


def write(out: Path, turns: int) -> None:
    with RunDirectory(out, settings={}, resume=True) as run:
        for one in trees(turns):
            run.finish(one, sync=False)


def peak(run: Path, out: Path, kind: str, options: list[str]) -> tuple[float, float]:
    """Return the greatest resident memory in MB of the command, and its seconds."""
    command = [sys.executable, "-m", "collab_agents", "dataset", "--from", str(run), "--kind", kind, "--out", str(out)]
    start = time.monotonic()
    made = subprocess.Popen([*command, "--eval-share", "0.5", *options], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(made.pid, 0)
    made.returncode = os.waitstatus_to_exitcode(status)
    if made.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {made.returncode}")
    return used.ru_maxrss / 1024, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    arguments = parser.parse_args()
    table = Table(title="Memory of making a dataset", title_justify="left")
    table.add_column("kind")
    for turns in arguments.turns:
        table.add_column(f"{turns:,} turns", justify="right")
    with tempfile.TemporaryDirectory() as folder:
        runs = {turns: Path(folder) / f"run-{turns}" for turns in arguments.turns}
        for turns, run in runs.items():
            write(run, turns)
        for name in arguments.kinds:
            cells = []
            for turns, run in runs.items():
                out = Path(folder) / f"{name}-{turns}"
                memory, seconds = peak(run, out, name.partition(",")[0], KINDS[name])
                cells.append(f"{memory:,.0f} MB in {seconds:,.0f} s")
            table.add_row(name, *cells)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
