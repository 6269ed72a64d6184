"""What the driver of a run on Ray spends on a task when it has as many as it can take.

    python -m benchmarks.driver FILE COUNT    # FILE holds a trajectory; called by benchmarks.cluster

The driver is the process that hands out tasks and writes the run directory. Here two workers play nothing: they answer
with the trajectory in FILE, so that the driver is never short of work. Its part is the real one. It has a core to
itself and everything else shares the others, since on a cluster the workers are on other machines.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.cluster import small
from collab_agents import RayOptions
from collab_agents.runs.ledger import Ledger
from collab_agents.runs.workers.job import Item


class Replay:
    """A job that answers with a trajectory, as if each task had come to it. Takes the place of `PlayJob`.

    Args:
        line: The trajectory.
    """

    def __init__(self, line: str) -> None:
        self.limited = False
        self.prices: dict[str, Any] = {}
        self._line = line

    async def open(self, ledger: Ledger) -> Callable[[Item], Awaitable[str]]:
        record = json.loads(self._line)

        async def play(item: Item) -> str:
            return json.dumps(record | {"task": item.task}, ensure_ascii=False)

        return play


async def feed(line: str, count: int) -> dict[str, float]:
    """Return the driver's CPU per task in seconds, and tasks per second, once an eighth of the tasks is finished."""
    marks, finished = [], 0
    options = {"ray": RayOptions(workers=2)}
    own, *others = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others)  # The processes that are started from here inherit it.
    with (
        tempfile.TemporaryDirectory() as out,
        mock.patch("collab_agents.runs.generate.PlayJob", return_value=Replay(line)),
    ):
        async for _ in small("http://localhost:9/v1", count, options | {"out": out}):
            finished += 1
            if finished == 1:
                for thread in os.listdir("/proc/self/task"):
                    os.sched_setaffinity(int(thread), {own})
            if finished in (count // 8, count):
                marks.append((time.process_time(), time.monotonic()))
    (cpu, began), (cpu_after, ended) = marks
    played = count - count // 8
    return {"driver": (cpu_after - cpu) / played, "tasks_per_s": played / (ended - began)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("count", type=int)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(feed(given.file.read_text().splitlines()[0], given.count))))
