"""The same work on this library and on the published `collabllm` package, side by side, in one run.

    python -m benchmarks.throughput            # everything, about 6 minutes
    python -m benchmarks.throughput --quick    # without the peer's 32 tasks and the 2,000 small ones

The work: at each of 3 turns, 3 candidates x 3 futures x 2 exchanges, each future judged by the BLEU of the extracted
document, interactivity and token cost. The model is a loopback server in a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import peers
from benchmarks.process import ROOT, Server

OURS = [sys.executable, "-m", "benchmarks.ours"]

Row = dict[str, Any]


def measure(command: list[str], tasks: int, *options: str, work: list[str] | None = None) -> Row:
    """Run one side on a fresh server. Raises RuntimeError, with what it printed, if it broke."""
    with closing(Server(*options)) as server:
        arguments = ["--url", server.url, "--tasks", str(tasks), *(work or [])]
        done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        row: Row = json.loads(done.stdout.strip().splitlines()[-1]) | server.stats()
    row["tasks"] = tasks
    row["cpu_ms"] = row["cpu"] / max(row["calls"], 1) * 1000
    row["unreusable"] = row["unreusable"] / tasks
    return row


def median_row(rows: list[Row]) -> Row:
    """Each figure's median over runs that took turns."""
    return {key: statistics.median_low([row[key] for row in rows]) for key in rows[0]}


def show(title: str, sides: Mapping[str, Row | None], lines: list[tuple[str, str, str]]) -> None:
    """Print the sides by name, with a line for each label, figure and bound."""
    table = Table(title=title, title_justify="left")
    for column in ("", *sides, "bound"):
        table.add_column(column, justify="left" if not column else "right")
    for label, key, bound in lines:
        table.add_row(label, *(_cell(row, key) for row in sides.values()), bound)
    Console(width=110).print(table)


def _cell(row: Row | None, key: str) -> str:
    if row is None:
        return "-"
    if key == "finished":
        return f"{row['finished']} of {row['tasks']}"
    value = row[key]
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if isinstance(value, float) else str(value)


COMMON = [("calls", "calls", ""), ("peak calls at once", "peak", ""), ("peak RSS, MB", "rss_mb", "")]


def named(peer: Row | None, ours: Row) -> dict[str, Row | None]:
    return {"collabllm 0.0.8": peer, "collab-agents": ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    os.environ.pop("OPENAI_API_KEY", None)
    published = peers.published()
    latency = ("--latency", "0.2", "--jitter", "0.5")

    rounds = [[measure(side, 1, *latency) for side in (published, OURS)] for _ in range(1 if quick else 3)]
    peer, ours = (median_row([one[side] for one in rounds]) for side in (0, 1))
    per_task = [
        ("wall, s", "wall", "at most 8"),
        ("prompt characters a prefix cache cannot reuse", "unreusable", "at most 150,000"),
        ("finished", "finished", "all"),
    ]
    show(f"One task, 0.2 s latency, jitter 0.5, median of {len(rounds)}", named(peer, ours), per_task + COMMON)

    ours = measure(OURS, 32, *latency)
    peer_32 = None if quick else measure(published, 32, *latency)
    many = [
        ("wall, s", "wall", "at most 15"),
        ("CPU per call, ms", "cpu_ms", "at most 1/5.5"),
        ("finished", "finished", "all"),
    ]
    show("32 tasks, 0.2 s latency, jitter 0.5", named(peer_32, ours), many + COMMON)

    trouble = ("--latency", "0.05", "--jitter", "0.5", "--error-rate", "0.03", "--garbage-rate", "0.03")
    peer, ours = (measure(side, 8, *trouble) for side in (published, OURS))
    lines = [("finished", "finished", "all"), ("wall, s", "wall", "")]
    show("8 tasks, 3% HTTP errors, 3% garbage", named(peer, ours), lines)

    if not quick:
        few, lots = (measure(OURS, count, "--latency", "0", work=["--work", "small"]) for count in (200, 2000))
        ratio = lots["rss_mb"] / few["rss_mb"]
        print(
            f"peak RSS at 200 small tasks {few['rss_mb']:.0f} MB, at 2,000 {lots['rss_mb']:.0f} MB: {ratio:.2f}x",
            end="",
        )
        print(" (bound: 1.3x)")


if __name__ == "__main__":
    main()
