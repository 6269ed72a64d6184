"""The viewer: what it takes to index a run, to find, sort and read its trajectories, and to have them as pages.

    python -m benchmarks.view        # 2,000 of 50 kB and 100,000 small ones, about 2 minutes

Each run is indexed, and asked, by a process of its own, whose memory this is. Times are medians of different requests,
so that nothing is answered from what was kept for an earlier one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from benchmarks.large import RECORDED, small, timed
from collab_agents import Task, Trajectory, read_trajectories
from collab_agents.runs import compact
from collab_agents.trajectories import Failure
from collab_agents.view.index_file import index_path
from collab_agents.view.table import FAILED, RunTable, Wanted

TIMES = 20
WORDS = "amber basil cedar delta ember fjord grove heron ivory jetty".split()


def varied(number: int, one: Trajectory, salt: int) -> Trajectory:
    """Return the trajectory as one of another task, with a word and scores of its own."""
    word = f"{WORDS[number % 10]}-{number * 7919 % 1000}"
    first, *rest = one.messages
    reward = (number * 7919 + salt * 104729) % 1009 / 1009
    return one.model_copy(
        update={
            "task": one.task.model_copy(update={"id": f"task-{number}"}),
            "messages": [first | {"content": f"{first['content']} It is about {word}."}, *rest],
            "reward": reward,
            "scores": {name: (score or 0) + reward for name, score in one.scores.items()},
        }
    )


def large() -> Iterator[Trajectory]:
    """Yield recorded conversations, one after the other twice, which makes 50 kB."""
    recorded = [one for file in sorted(RECORDED.glob("*.jsonl")) for one in read_trajectories(file)]
    while True:
        for one in recorded:
            yield one.model_copy(update={"turns": one.turns * 2, "messages": one.messages * 2})


def write(out: Path, trajectories: Iterator[Trajectory], count: int, salt: int) -> None:
    out.mkdir()
    (out / "run.json").write_text("{}")
    with open(out / "trajectories.jsonl", "w", encoding="utf-8") as file:
        for number, one in zip(range(count), trajectories, strict=False):
            file.write(varied(number, one, salt).model_dump_json() + "\n")
    with open(out / "failures.jsonl", "w", encoding="utf-8") as file:
        for number in range(count // 100):
            task = Task(id=f"failed-{number}", goal="You want an invitation.")
            reason = f"HTTP {500 + number % 10}: {WORDS[number % 10]}"
            file.write(Failure(task=task, error=reason).model_dump_json() + "\n")


def median(work: Callable[[int], object]) -> str:
    times = []
    for number in range(TIMES):
        start = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - start)
    return f"{statistics.median(times) * 1000:.1f} ms, at most {max(times) * 1000:.1f}"


def memory() -> int:
    """Return this process's peak in MB. What getrusage says counts the process that started it, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def indexed(run: Path) -> tuple[RunTable, float]:
    start = time.perf_counter()
    table = RunTable(run)
    while not table.refresh():
        pass
    return table, time.perf_counter() - start


def measure(folder: Path) -> Iterator[tuple[str, str]]:
    table, seconds = indexed(folder / "run")
    count, judge = table.count, table.judges[0]
    yield "bytes of the run", f"{table.total_bytes / 1e6:.1f} MB"
    yield "indexing", f"{seconds:.1f} s"
    table.close()
    yield "size of the index", f"{index_path(folder / 'run').stat().st_size / 1e6:.1f} MB"
    table, seconds = indexed(folder / "run")
    yield "opening again", f"{seconds * 1000:.0f} ms"

    def ask(**wanted: object) -> None:
        table.rows(Wanted(**wanted), limit=50)  # type: ignore[arg-type]

    yield "filter by text", median(lambda i: ask(text=f"{WORDS[i % 10].upper()}-{i * 7919 % 1000}"))
    yield "filter by text in every row", median(lambda i: ask(text="You want"[: 8 - i % 4], least=-i))
    yield "filter by a score's range", median(lambda i: ask(score=judge, least=i / 40, most=i / 40 + 0.3))
    yield "filter by failure", median(lambda i: ask(stopped="failed", text=f"HTTP {500 + i % 10}"))
    yield "sort by a judge", median(lambda i: ask(sort=judge, descending=bool(i % 2), least=-1 - i))
    yield "the last page", median(lambda i: table.rows(Wanted(sort=judge, least=-30 - i), offset=count - 50))
    yield "beside", median(lambda i: table.beside(1 + i * count // TIMES, Wanted(sort="reward", least=-60 - i)))
    yield "histogram", median(lambda i: table.histogram(judge, 20 + i))
    yield "a trajectory", median(lambda i: table.trajectory(1 + i * count // TIMES))
    yield "looking for what is new", median(lambda i: table.refresh())

    def fail_again(time: int) -> None:
        os.utime(folder / "run" / "failures.jsonl", (time, time))
        table.refresh()

    yield f"reading {table.failed:,} failures again", median(fail_again)
    yield "reliability", f"{timed(table.reliability) * 1000:.0f} ms of CPU"
    yield "memory, at most", f"{memory()} MB"
    with RunTable(folder / "parquet") as columnar:
        while not columnar.refresh():
            pass
        yield "a trajectory of a Parquet file", median(lambda i: columnar.trajectory(1 + i * count // TIMES))
    other, _ = indexed(folder / "other")
    scores = ["reward", *table.judges]
    yield "pairs", median(lambda i: table.pairs(other, scores[i % len(scores)]))
    yield "memory with two runs, at most", f"{memory()} MB"


def pages(run: Path, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Ask the command's server, whose index is there, for its pages."""
    command = [sys.executable, "-m", "collab_agents", "view", str(run), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = urlsplit(server.stdout.readline().strip())
        cookie = f"collab-agents-{address.port}={address.query.removeprefix('token=')}"

        def get(path: str) -> bytes:
            connection = HTTPConnection(str(address.hostname), address.port)
            connection.request("GET", path, headers={"Cookie": cookie})
            answer = connection.getresponse()
            assert answer.status == 200, f"{path}: {answer.status}"
            return answer.read()

        start = time.perf_counter()
        get("/")
        yield "page of the run, the first time", f"{(time.perf_counter() - start) * 1000:.0f} ms"
        yield "page of the run", median(lambda i: get("/0"))
        table = "/0/trajectories"
        yield "page of the table", median(lambda i: get(f"{table}?sort=reward&offset={50 * i}"))
        yield "page of a filter", median(lambda i: get(f"{table}?text={WORDS[i % 10]}-{i * 7919 % 1000}"))
        yield (
            "page of failed tasks",
            median(lambda i: get(f"{table}?stopped=failed&text=http+50{i % 10}&offset={i // 10}")),
        )
        yield "page of a failed task", median(lambda i: get(f"{table}/{FAILED + i}?stopped=failed"))
        yield "page of a trajectory", median(lambda i: get(f"{table}/{1 + i}?sort=reward"))
        status = Path(f"/proc/{server.pid}/status").read_text()
        yield "memory of the server, at most", f"{int(status.partition('VmHWM:')[2].split()[0]) // 1024} MB"
        server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=int, default=2000)
    parser.add_argument("--small", type=int, default=100_000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        for what, value in measure(options.measure):
            print(f"{what}\t{value}", flush=True)
        return
    with tempfile.TemporaryDirectory() as name:
        kinds = {
            "real-size": (options.large, large),
            "small": (options.small, lambda: map(small, range(options.small))),
        }
        for kind, (count, trajectories) in kinds.items():
            folder = Path(name) / kind
            folder.mkdir()
            write(folder / "run", trajectories(), count, 0)
            write(folder / "other", trajectories(), count, 1)
            compact([folder / "run"], folder / "parquet", format="parquet")
            command = [sys.executable, "-m", "benchmarks.view", "--measure", str(folder)]
            environment = os.environ | {"XDG_CACHE_HOME": str(Path(name) / "cache")}
            said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            table = Table(title=f"{count:,} {kind} trajectories", title_justify="left", show_header=False)
            table.add_column("")
            table.add_column("", justify="right")
            for line in said.splitlines():
                table.add_row(*line.split("\t"))
            for what, value in pages(folder / "run", environment):
                table.add_row(what, value)
            Console(width=100).print(table)


if __name__ == "__main__":
    main()
