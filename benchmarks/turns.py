"""What it takes to keep a turn: in a run folder, and in a PostgreSQL database.

    python -m benchmarks.turns postgresql:///bench?host=/run/postgresql     # less than a minute

The state is that of a conversation of 12 turns with lookahead, about 100 kB, made of recorded trajectories. It is kept
in place of itself by 1 task and by 32 tasks at once. CPU is that of this process, user and system.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from langchain_core.messages import convert_to_messages
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from rich.console import Console
from rich.table import Table

from benchmarks.process import ROOT
from collab_agents import read_trajectories
from collab_agents.runs.postgres import PostgresTurns
from collab_agents.runs.sqlite import SqliteTurns
from collab_agents.runs.turns import Turns

TURNS, KEEPS = 12, 640


def state() -> dict[str, Any]:
    """Return a state after `TURNS` turns."""
    recorded = list(read_trajectories(ROOT / "tests" / "data" / "recorded" / "agenda.jsonl"))
    turns = [turn.model_dump() for one in recorded for turn in one.turns]
    return {
        "task": recorded[0].task.model_dump(),
        "persona": recorded[0].persona.model_dump() if recorded[0].persona else None,
        "messages": convert_to_messages(recorded[0].messages),
        "turns": list(islice(cycle(turns), TURNS)),
        "exchanges": TURNS,
    }


@asynccontextmanager
async def opened(address: str | None) -> AsyncIterator[Turns]:
    if address is not None:
        async with PostgresTurns(address, f"bench-{uuid4().hex}") as shared:
            yield shared
        return
    with tempfile.TemporaryDirectory() as folder:
        async with SqliteTurns(Path(folder) / "checkpoints.sqlite", sync=lambda: None) as turns:
            yield turns


async def measure(address: str | None, tasks: int) -> tuple[float, float]:
    """Return the milliseconds of a `keep`, wall and CPU."""
    kept = state()

    async def play(task_id: str) -> None:
        for _ in range(KEEPS // tasks):
            await turns.keep(task_id, kept)

    async with opened(address) as turns:
        await play("warm")
        names = [f"task-{number}" for number in range(tasks)]
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*map(play, names))
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        for name in ("warm", *names):
            await turns.forget(name)
    return wall / KEEPS * 1000, cpu / KEEPS * 1000


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    address = parser.parse_args().address
    size = len(JsonPlusSerializer().dumps_typed(state())[1])
    table = Table(title=f"Keeping a state of {size / 1000:.0f} kB, ms", title_justify="left")
    for column in ("", "tasks at once", "wall", "CPU"):
        table.add_column(column, justify="right" if column else "left")
    for name, where in (("SQLite", None), ("PostgreSQL", address)):
        for tasks in (1, 32):
            wall, cpu = await measure(where, tasks)
            table.add_row(name, str(tasks), f"{wall:.2f}", f"{cpu:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    asyncio.run(main())
