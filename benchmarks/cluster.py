"""What workers on Ray cost: the same tasks in one process, and through 1 and 2 workers on this machine.

    python -m benchmarks.cluster                  # about 6 minutes on 2 cores
    python -m benchmarks.cluster --many 100000    # and memory: as many small tasks, and a tenth, through 2 workers

The model is a loopback server in a process of its own, so at 2 workers 4 processes share the machine: CPU time is what
counts, wall time is shown. The driver is the process that hands out tasks and writes the run directory.
"""

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.ours import tasks
from benchmarks.process import ROOT, Server
from collab_agents import (
    ChatAssistant,
    Limits,
    LLMUser,
    Lookahead,
    MultiturnReward,
    Persona,
    Progress,
    RayOptions,
    ScriptedUser,
    Trajectory,
    generate_trajectories,
    load_chat_model,
    read_trajectories,
)
from collab_agents.judges import bleu, interactivity, token_cost
from collab_agents.runs import play_conversations
from collab_agents.runs.directory import read_totals
from tests.support.participants import SHORT

Row = dict[str, Any]
SIDES = {"one process": None, "1 worker": 1, "2 workers": 2}


def paper(url: str, count: int, options: dict[str, Any]) -> AsyncIterator[Trajectory]:
    """CollabLLM's work, as in `benchmarks.throughput`: 3 turns, 3 candidates x 3 futures x 2 exchanges."""
    model = load_chat_model("openai:any", base_url=url, limits=Limits(max_concurrent_calls=600))
    judges = {"bleu": bleu(model), "interactivity": interactivity(model), "token_cost": token_cost()}
    return generate_trajectories(
        tasks(count),
        user=LLMUser(model),
        assistant=ChatAssistant(model),
        reward=MultiturnReward(judges),
        lookahead=Lookahead(candidates=3, futures=3, window=2, max_exchanges=3),
        personas=[Persona(name="plain")],
        max_concurrency=8,
        **options,
    )


def small(url: str, count: int, options: dict[str, Any]) -> AsyncIterator[Trajectory]:
    """Small tasks of 8 calls, where handing one out weighs most."""
    model = load_chat_model("openai:any", base_url=url)
    return generate_trajectories(
        tasks(count),
        user=ScriptedUser(["I need an invitation.", "Make it shorter.", "And friendlier."]),
        assistant=ChatAssistant(model),
        reward=MultiturnReward({"token_cost": token_cost()}),
        lookahead=Lookahead(candidates=2, futures=1, window=1, max_exchanges=2),
        max_concurrency=64,
        **options,
    )


def tiny(url: str, count: int, options: dict[str, Any]) -> AsyncIterator[Trajectory]:
    """Conversations of one exchange without a model."""
    return play_conversations(
        tasks(count),
        user=ScriptedUser(["I need an invitation."]),
        assistant=SHORT,
        reward=MultiturnReward({"token_cost": token_cost()}),
        max_exchanges=1,
        max_concurrency=64,
        **options,
    )


WORK: dict[str, Callable[..., AsyncIterator[Trajectory]]] = {"paper": paper, "small": small, "tiny": tiny}


def workers() -> list[psutil.Process]:
    """Return the processes that play tasks for this one."""
    return [one for one in psutil.Process().children(recursive=True) if "ray::Actor" in " ".join(one.cmdline())]


def cpu_of(processes: list[psutil.Process]) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in processes)


async def play(work: str, url: str, count: int, side: int | None, out: str) -> Row:
    """Play the tasks, and return what that took once the first had begun: seconds of CPU and wall, and MB."""
    ray = None if side is None else RayOptions(workers=side)
    begun: list[float] = []

    def begin(progress: Progress) -> None:
        if not begun:  # By now the workers are there and have loaded everything.
            begun.extend([time.monotonic(), time.process_time(), cpu_of(workers())])

    finished, theirs, memory = 0, 0.0, [0.0]
    async for _ in WORK[work](url, count, {"out": out, "ray": ray, "progress": Progress(on_change=begin)}):
        finished += 1
        if finished == count:
            found = workers()
            theirs = cpu_of(found) - begun[2]
            memory += [one.memory_info().rss / 2**20 for one in found]
    started, cpu, _ = begun
    return {
        "finished": finished,
        "wall": time.monotonic() - started,
        "driver": time.process_time() - cpu,
        "workers": theirs,
        "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "worker_mb": max(memory),
        "calls": read_totals(out)["calls"],
    }


def measured(work: str, count: int, side: str) -> Row:
    """Play in a process of its own, against a fresh server."""
    with closing(Server("--latency", "0.02", "--jitter", "0")) as server, tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "benchmarks.cluster", "--play", work, server.url, str(count), side, out]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        row: Row = json.loads(done.stdout.strip().splitlines()[-1])
        assert row["finished"] == count == sum(1 for _ in read_trajectories(out)), "tasks were lost"
    calls = max(row["calls"], 1)
    row["cpu_ms"] = (row["driver"] + row["workers"]) / calls * 1000
    row["driver_ms"] = row["driver"] / count * 1000
    row["per_s"] = calls / row["wall"]
    row["tasks_per_s"] = count / row["wall"]
    row["feeds"] = row["workers"] / row["driver"]
    return row


LINES = [
    ("calls/s", "per_s"),
    ("tasks/s", "tasks_per_s"),
    ("CPU per call, driver and workers, ms", "cpu_ms"),
    ("driver's CPU per task, ms", "driver_ms"),
    ("busy workers that one driver's core feeds", "feeds"),
    ("driver's peak memory, MB", "driver_mb"),
    ("a worker's memory, MB", "worker_mb"),
]


def show(title: str, rows: dict[str, Row]) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("", *rows):
        table.add_column(column, justify="right" if column else "left")
    for label, key in LINES:
        table.add_row(label, *(f"{row[key]:,.2f}" if row[key] else "-" for row in rows.values()))
    first = next(iter(rows.values()))
    table.add_row(
        "CPU per call, over one process", *(f"{row['cpu_ms'] / first['cpu_ms']:.2f}" for row in rows.values())
    )
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=0, help="also measure memory with as many tiny tasks")
    parser.add_argument("--play", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.play:
        work, url, count, side, out = given.play
        print(json.dumps(asyncio.run(play(work, url, int(count), SIDES[side], out))))
        return
    for work, count in (("paper", 16), ("small", 600)):
        rounds = [{side: measured(work, count, side) for side in SIDES} for _ in range(given.rounds)]
        medians = {
            side: {key: statistics.median(one[side][key] for one in rounds) for key in rounds[0][side]}
            for side in SIDES
        }
        show(f"{count} {work} tasks, median of {given.rounds}", medians)
    if given.many:
        many(given.many)


def many(count: int) -> None:
    """Compare the driver's memory at `count` tasks and at a tenth, and time a resume over the finished directory."""
    few, lots = (measured("tiny", number, "2 workers") for number in (count // 10, count))
    show("tiny tasks through 2 workers", {f"{count // 10:,} tasks": few, f"{count:,} tasks": lots})
    print(f"driver's memory: {lots['driver_mb'] / few['driver_mb']:.2f}x (bound: 1.2x)")


if __name__ == "__main__":
    main()
