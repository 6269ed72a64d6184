"""Large runs: what it costs to keep many trajectories, to open them again, and to read them in each format.

    python -m benchmarks.large                       # 100,000 small trajectories, about 2 minutes
    python -m benchmarks.large --trajectories 10000

The small trajectories are conversations of one exchange, made once and kept under other ids. Bytes and reading speed
are also of the recorded runs of the tests, which have lookahead. CPU is that of this process.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from collab_agents import Task, Trajectory, Usage, read_trajectories
from collab_agents.runs import compact
from collab_agents.runs.directory import RunDirectory

RECORDED = Path(__file__).parent.parent / "tests" / "data" / "recorded"


def small(number: int) -> Trajectory:
    said = [("user", "I need an invitation."), ("assistant", "Here is a draft. Is it what you had in mind?")]
    return Trajectory(
        task=Task(id=f"task-{number}", goal=f"You want an invitation (request {number})."),
        seed=number,
        messages=[{"role": role, "content": content} for role, content in said],
        stopped="max_turns",
        turns=[],
        reward=-0.0055,
        scores={"token_cost": -0.0055},
        usage=Usage(calls=1, input_tokens=number % 100, output_tokens=11, unreported=0, priced=1),
    )


def timed(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    start = clock()
    work()
    return clock() - start


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def finish(out: Path, numbers: Iterable[int]) -> None:
    with RunDirectory(out, settings={}, resume=True) as run:
        for number in numbers:
            run.finish(small(number), sync=False)


def open_again(out: Path) -> None:
    with RunDirectory(out, settings={}, resume=True) as run:
        assert "task-0" in run.finished


def read(out: Path, times: int) -> None:
    for _ in range(times):
        for _ in read_trajectories(out):
            pass


def formats(source: Path, folder: Path, table: Table, what: str) -> None:
    """Add rows with the bytes and the reading speed of each format."""
    for kind in ("jsonl", "parquet"):
        out = folder / kind
        count = compact([source], out, format=kind)
        size = sum(file.stat().st_size for file in (out / "trajectories").iterdir())
        times = max(1, 500 // count)
        seconds = timed(partial(read, out, times)) / times
        table.add_row(f"{what}, {kind}", f"{size / count:,.0f} bytes each, {count / seconds:,.0f} read a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=100_000)
    count = parser.parse_args().trajectories
    table = Table(title=f"{count:,} small trajectories", title_justify="left", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        making = timed(lambda: [small(number) for number in range(1000)]) / 1000
        finish(out, range(count // 10))
        before = memory()
        keeping = timed(lambda: finish(out, range(count // 10, count))) / (count - count // 10) - making
        table.add_row("CPU to keep one", f"{keeping * 1000:.3f} ms")
        table.add_row("memory of nine tenths of them", f"{memory() - before:.1f} MB")
        table.add_row("opening", f"{timed(lambda: open_again(out), time.monotonic):.3f} s")
        for file in out.glob("index.sqlite*"):
            file.unlink()
        table.add_row("opening without the index", f"{timed(lambda: open_again(out), time.monotonic):.3f} s")
        formats(out, Path(folder) / "small", table, "small")
        for file in sorted(RECORDED.glob("*.jsonl")):
            formats(file, Path(folder) / file.stem, table, f"recorded {file.stem}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
