"""The same work on this library and on the published `collabllm` package, side by side, in one run.

    python -m benchmarks.throughput            # everything, about 6 minutes
    python -m benchmarks.throughput --quick    # without the peer's 32 tasks and the 2,000 small ones

The work: at each of 3 turns, 3 candidates x 3 futures x 2 exchanges, each future judged by the BLEU of the extracted
document, interactivity and token cost. The model is a loopback server in a process of its own. The peer (0.0.8) gets
a virtual environment of its own under .bench/, made on first use.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import venv
from contextlib import closing
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.process import ROOT, Server

PEER = ROOT / ".bench" / "collabllm"
OURS = [sys.executable, "-m", "benchmarks.ours"]
PUBLISHED = [str(PEER / "bin" / "python"), str(ROOT / "benchmarks" / "published.py")]

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


def make_peer() -> None:
    """The published package without what its benchmarked part does not import (vllm, wandb, bitsandbytes, ...)."""
    if (PEER / "ready").exists():
        return
    venv.create(PEER, with_pip=True, clear=True)
    pip = [str(PEER / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    needs = ["transformers", "litellm", "tqdm", "numpy<3", "tenacity", "sacrebleu", "setuptools"]
    for packages in (["torch==2.13.0"], needs, ["--no-deps", "collabllm==0.0.8"]):
        subprocess.run([*pip, *packages], check=True)
    (PEER / "ready").touch()


def show(title: str, peer: Row | None, ours: Row, lines: list[tuple[str, str, str]]) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("", "collabllm 0.0.8", "collab-agents", "bound"):
        table.add_column(column, justify="left" if not column else "right")
    for label, key, bound in lines:
        table.add_row(label, _cell(peer, key), _cell(ours, key), bound)
    Console(width=100).print(table)


def _cell(row: Row | None, key: str) -> str:
    if row is None:
        return "-"
    if key == "finished":
        return f"{row['finished']} of {row['tasks']}"
    value = row[key]
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if isinstance(value, float) else str(value)


COMMON = [("calls", "calls", ""), ("peak calls at once", "peak", ""), ("peak RSS, MB", "rss_mb", "")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    os.environ.pop("OPENAI_API_KEY", None)
    make_peer()
    latency = ("--latency", "0.2", "--jitter", "0.5")

    rounds = [[measure(side, 1, *latency) for side in (PUBLISHED, OURS)] for _ in range(1 if quick else 3)]
    peer, ours = (median_row([one[side] for one in rounds]) for side in (0, 1))
    per_task = [
        ("wall, s", "wall", "at most 8"),
        ("prompt characters a prefix cache cannot reuse", "unreusable", "at most 150,000"),
        ("finished", "finished", "all"),
    ]
    show(f"One task, 0.2 s latency, jitter 0.5, median of {len(rounds)}", peer, ours, per_task + COMMON)

    ours = measure(OURS, 32, *latency)
    peer_32 = None if quick else measure(PUBLISHED, 32, *latency)
    many = [
        ("wall, s", "wall", "at most 15"),
        ("CPU per call, ms", "cpu_ms", "at most 2.2"),
        ("finished", "finished", "all"),
    ]
    show("32 tasks, 0.2 s latency, jitter 0.5", peer_32, ours, many + COMMON)

    trouble = ("--latency", "0.05", "--jitter", "0.5", "--error-rate", "0.03", "--garbage-rate", "0.03")
    peer, ours = (measure(side, 8, *trouble) for side in (PUBLISHED, OURS))
    show("8 tasks, 3% HTTP errors, 3% garbage", peer, ours, [("finished", "finished", "all"), ("wall, s", "wall", "")])

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
