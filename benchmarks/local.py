"""The work of `make demo` on each engine for local models, side by side.

    python -m benchmarks.local                                    # what `make bench-local` runs
    python -m benchmarks.local --engines vllm transformers --config examples/offline.yaml --tasks 64 --concurrency 64

A run is a process of its own, which plays the tasks twice: cold, and warm with what the first time left in the engine's
cache. Loading the model does not count. The engines take turns, and each figure is the median of its runs.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.process import ROOT
from collab_agents import generate_trajectories
from collab_agents.config import RunConfig
from collab_agents.config.build import compose, personas_of, tasks_of
from collab_agents.usage import track_usage

ENGINES: dict[str, dict[str, Any]] = {
    "transformers": {"engine": "transformers"},
    "openvino": {"engine": "openvino", "reproducible": True},
    "openvino-fast": {"engine": "openvino", "reproducible": False},
    "vllm": {"engine": "vllm", "reproducible": True},
    "vllm-fast": {"engine": "vllm", "reproducible": False},
}

Row = dict[str, float]


async def play(engine: str, config: str, tasks: int, concurrency: int, batch: int) -> dict[str, Row]:
    settings = yaml.safe_load((ROOT / config).read_text(encoding="utf-8"))
    settings["assistant"]["model"]["options"] = ENGINES[engine] | {"max_batch_size": batch}
    settings["tasks"]["limit"] = tasks
    run = RunConfig.model_validate(settings)
    parts = compose(run)
    await parts.models[0].ainvoke("Hello", max_tokens=8)
    rows = {}
    for name in ("cold", "warm"):
        begin = time.monotonic()
        with track_usage() as usage:
            done = generate_trajectories(
                tasks_of(run.tasks),
                user=parts.user,
                assistant=parts.assistant,
                reward=parts.reward,
                lookahead=run.lookahead,
                personas=personas_of(run.user),
                seed=run.seed,
                max_concurrency=concurrency,
            )
            finished = len([one async for one in done])
        seconds = time.monotonic() - begin
        assert finished == tasks
        rows[name] = {
            "seconds": seconds,
            "calls/s": usage.calls / seconds,
            "new tokens/s": usage.output_tokens / seconds,
        }
    return rows


def measure(engine: str, options: list[str]) -> dict[str, Row]:
    command = [sys.executable, "-m", "benchmarks.local", "--play", engine, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    rows: dict[str, Row] = json.loads(done.stdout.strip().splitlines()[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["transformers", "openvino", "openvino-fast"])
    parser.add_argument("--config", default="examples/demo.yaml")
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--play", choices=ENGINES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.play:
        print(json.dumps(asyncio.run(play(given.play, given.config, given.tasks, given.concurrency, given.batch))))
        return
    options = [f"--{name}={getattr(given, name)}" for name in ("config", "tasks", "concurrency", "batch")]
    runs: dict[str, list[dict[str, Row]]] = {engine: [] for engine in given.engines}
    for _ in range(given.runs):
        for engine in given.engines:
            runs[engine].append(measure(engine, options))
            print(engine, json.dumps(runs[engine][-1]), file=sys.stderr, flush=True)
    title = f"{given.tasks} tasks of {given.config}, {given.concurrency} at once, median of {given.runs}"
    table = Table(title=title, title_justify="left")
    for column in ("engine", "cache", "seconds", "calls/s", "new tokens/s", f"against {given.engines[0]}"):
        table.add_column(column, justify="left" if column in ("engine", "cache") else "right")
    for cache in ("cold", "warm"):
        first = 0.0
        for engine in given.engines:
            row = {key: statistics.median(run[cache][key] for run in runs[engine]) for key in runs[engine][0][cache]}
            first = first or row["new tokens/s"]
            table.add_row(
                engine, cache, *(f"{value:,.1f}" for value in row.values()), f"{row['new tokens/s'] / first:.1f} x"
            )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
