"""What workers on Ray cost: the same tasks in 1 and 2 plain processes, and through 1 and 2 workers on this machine.

    python -m benchmarks.cluster                  # about 16 minutes on 2 cores
    python -m benchmarks.cluster --many 100000    # only memory: as many tiny tasks, and a tenth, through 2 workers
    python -m benchmarks.cluster --idle 20        # only what the driver spends on as many workers that do nothing

The model is a loopback server in a process of its own, so at 2 workers 4 processes share the machine: CPU time is what
counts, wall time is shown. Processes that share cores slow each other down, so 2 workers are compared with 2 plain
processes that share the tasks. The driver is the process that hands out tasks and writes the run directory; how many
workers it can feed is measured by `benchmarks.driver`.
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
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any, NamedTuple

import psutil
from langchain_core.messages import BaseMessage
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
from collab_agents.participants import AssistantContext
from collab_agents.runs import play_conversations
from collab_agents.runs.directory import read_totals
from collab_agents.users import Memory
from tests.support.participants import SHORT

Row = dict[str, Any]
SIDES = {"1 process": None, "1 worker": 1, "2 processes": None, "2 workers": 2}


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
    """Return the processes that play tasks for this one, or may: Ray starts some that are not needed."""
    return [one for one in psutil.Process().children(recursive=True) if " ".join(one.cmdline()).startswith("ray::")]


class Mark(NamedTuple):
    """Seconds: of wall time, and of CPU time of the driver and of all workers."""

    seconds: float
    driver: float
    workers: float

    def __sub__(self, other: "Mark") -> "Mark":
        return Mark(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


def mark() -> Mark:
    theirs = sum(sum(one.cpu_times()[:2]) for one in workers())
    return Mark(time.monotonic(), time.process_time(), theirs)


async def play(work: str, url: str, count: int, side: int | None, out: str) -> Row:
    """Play the tasks, and return what that took once the first had begun: seconds of CPU and wall, and MB."""
    options = {"out": out, "ray": None if side is None else RayOptions(workers=side)}
    begun: list[Mark] = []

    def begin(progress: Progress) -> None:
        if not begun:  # By now the workers are there and have loaded everything.
            begun.append(mark())

    finished = 0
    async for _ in WORK[work](url, count, options | {"progress": Progress(on_change=begin)}):
        finished += 1
        if finished == count:
            ended, memory = mark(), max((one.memory_info().rss for one in workers()), default=0)
    took = ended - begun[0]
    return {
        "finished": finished,
        "wall": took.seconds,
        "cpu": took.driver + took.workers,
        "worker": took.workers / count,
        "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "worker_mb": memory / 2**20,
        "calls": read_totals(out)["calls"],
    }


async def resume(work: str, url: str, count: int, side: int | None, out: str) -> Row:
    """Resume a finished run in one process, and return how long that takes, in seconds."""
    progress, started = Progress(), time.monotonic()
    async for _ in WORK[work](url, count, {"out": out, "resume": True, "progress": progress}):
        raise AssertionError("a task was not finished")
    return {"skipped": progress.skipped, "seconds": time.monotonic() - started}


def apart(*arguments: object, module: str = "cluster") -> Row:
    """Call a module in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    row: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def measured(work: str, count: int, side: str) -> Row:
    """Play in a process of its own, against a fresh server. If workers played, see how fast the driver can go."""
    with closing(Server("--latency", "0.02", "--jitter", "0")) as server, tempfile.TemporaryDirectory() as out:
        if side == "2 processes":
            row = side_by_side(work, server.url, count, side, out)
        else:
            row = apart("--play", work, server.url, count, side, out)
            assert row["finished"] == count == sum(1 for _ in read_trajectories(out)), "tasks were lost"
        if work == "tiny":
            again = apart("--resume", work, server.url, count, side, out)
            assert again["skipped"] == count, "tasks were forgotten"
            row["resume"] = again["seconds"]
        if side == "1 worker":
            row |= fed(f"{out}/trajectories.jsonl", row["calls"] / count, row["worker"])
    row["tasks_per_s"] = count / row["wall"]
    if calls := row["calls"]:
        row["cpu_ms"] = row["cpu"] / calls * 1000
        row["per_s"] = calls / row["wall"]
    return row


def side_by_side(work: str, url: str, count: int, side: str, out: str) -> Row:
    """Play half of the tasks in each of two processes at a time."""
    with ThreadPoolExecutor() as threads:
        halves = [threads.submit(apart, "--play", work, url, count // 2, side, f"{out}/{half}") for half in "ab"]
        one, other = (half.result() for half in halves)
    both = {key: one[key] + other[key] for key in ("finished", "cpu", "calls")}
    return both | {key: max(one[key], other[key]) for key in ("wall", "driver_mb")}


def fed(file: str, calls: float, worker: float) -> Row:
    """Return what one driver's core can feed with tasks of as many calls, on which a worker spends as many seconds."""
    driver = apart(file, 4000, module="driver")["driver"]
    return {"driver_ms": driver * 1000, "feeds": worker / driver, "fed_calls": calls / driver}


LINES = [
    ("calls/s", "per_s"),
    ("tasks/s", "tasks_per_s"),
    ("CPU per call, driver and workers, ms", "cpu_ms"),
    ("driver's CPU per task, ms", "driver_ms"),
    ("workers with a busy core that one driver's core feeds", "feeds"),
    ("calls/s that one driver's core feeds", "fed_calls"),
    ("peak memory of the driver, or of a plain process, MB", "driver_mb"),
    ("a worker's memory, MB", "worker_mb"),
    ("resume when all is finished, s", "resume"),
]


def show(title: str, rows: dict[str, Row]) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("", *rows):
        table.add_column(column, justify="right" if column else "left")
    for label, key in LINES:
        if any(row.get(key) for row in rows.values()):
            table.add_row(label, *(f"{row[key]:,.2f}" if row.get(key) else "" for row in rows.values()))
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, help="only measure memory, with as many tiny tasks")
    parser.add_argument("--idle", type=int, help="only measure the driver's CPU with as many idle workers")
    parser.add_argument("--play", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--resume", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if inside := given.play or given.resume:
        work, url, count, side, out = inside
        print(json.dumps(asyncio.run((play if given.play else resume)(work, url, int(count), SIDES[side], out))))
    elif given.many:
        many(given.many)
    elif given.idle:
        asyncio.run(idle(given.idle))
    else:
        overhead(given.rounds)


def overhead(times: int) -> None:
    """Compare the CPU of the same calls in one process and in workers."""
    for work, count in (("paper", 128), ("small", 2000)):
        rounds = [{side: measured(work, count, side) for side in SIDES} for _ in range(times)]
        medians = {
            side: {key: statistics.median(one[side][key] for one in rounds) for key in rounds[0][side]}
            for side in SIDES
        }
        show(f"{count} {work} tasks, median of {times}", medians)
        for side, plain in (("1 worker", "1 process"), ("2 workers", "2 processes")):
            ratio = statistics.median(one[side]["cpu_ms"] / one[plain]["cpu_ms"] for one in rounds)
            print(f"CPU per call, {side}: {ratio:.2f}x of {plain} (bound: 1.25x)")


def many(count: int) -> None:
    """Compare the driver's memory at `count` tasks and at a tenth, and time a resume over the finished directory."""
    few, lots = (measured("tiny", number, "2 workers") for number in (count // 10, count))
    show("tiny tasks through 2 workers", {f"{count // 10:,} tasks": few, f"{count:,} tasks": lots})
    print(f"driver's memory: {lots['driver_mb'] / few['driver_mb']:.2f}x (bound: 1.2x)")


class Waits:
    """An assistant that never answers."""

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        await asyncio.Event().wait()
        raise AssertionError


async def idle(count: int) -> None:
    """Print the driver's CPU while workers wait."""

    async def run() -> None:
        options: dict[str, Any] = {"max_concurrency": count, "ray": RayOptions(workers=count)}
        user, reward = ScriptedUser(["I need an invitation."]), MultiturnReward({"token_cost": token_cost()})
        async for _ in play_conversations(tasks(count), user=user, assistant=Waits(), reward=reward, **options):
            raise AssertionError

    running = asyncio.create_task(run())
    await asyncio.wait([running], timeout=10 + 5 * count)
    assert len(workers()) >= count, "the workers have not started yet"
    cpu, seconds = time.process_time(), 60
    await asyncio.wait([running], timeout=seconds)
    print(f"driver's CPU with {count} workers that wait: {(time.process_time() - cpu) / seconds:.1%} of a core")
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


if __name__ == "__main__":
    main()
