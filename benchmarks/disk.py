"""What a run folder costs: the same conversations played in memory and into a folder, in turns, in one run.

    python -m benchmarks.disk               # medians of 3, about 3 minutes
    python -m benchmarks.disk --rounds 1

The work: 240 and 480 conversations of 4 exchanges without lookahead, all at once, 0.1 s a reply. First without any
model, where keeping them costs the most beside playing them, then with a model on a loopback server as assistant and
user. CPU is that of the process that plays, user and system.
"""

import argparse

from rich.console import Console
from rich.table import Table

from benchmarks.throughput import OURS, Row, measure, median_row

MESSAGES = 8
"""Of a conversation. Each is a call where a model says them all."""

LINES = [("CPU per message, ms", "cpu_ms", "at most 1.4"), ("wall, s", "wall", "at most 1.2")]


def rows(work: str, count: int, rounds: int) -> list[Row]:
    """Return the medians in memory and with a folder, of runs that took turns."""
    options = ("--latency", "0.1", "--jitter", "0")
    sides = [["--work", work, "--in-memory"], ["--work", work]]
    played = [[measure(OURS, count, *options, work=side) for side in sides] for _ in range(rounds)]
    medians = [median_row([one[side] for one in played]) for side in (0, 1)]
    return [row | {"cpu_ms": row["cpu"] / (count * MESSAGES) * 1000} for row in medians]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    table = Table(title=f"A run folder, median of {rounds}", title_justify="left")
    for column in ("conversations", "", "in memory", "run folder", "ratio", "bound"):
        table.add_column(column, justify="left" if column in ("conversations", "") else "right")
    for work in ("scripted", "plain"):
        for count in (240, 480):
            memory, folder = rows(work, count, rounds)
            for label, key, bound in LINES:
                ratio = f"{folder[key] / memory[key]:.2f}"
                table.add_row(f"{count} {work}", label, f"{memory[key]:.2f}", f"{folder[key]:.2f}", ratio, bound)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
