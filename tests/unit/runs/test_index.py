"""The index of a run: what is finished is known without reading it again, and losing the index loses nothing."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.process import ROOT
from collab_agents import Persona, Task
from collab_agents.errors import RunDirectoryError
from collab_agents.runs.directory import RunDirectory
from collab_agents.trajectories import Candidate, Future, Trajectory, Turn, read_trajectories
from collab_agents.usage import Counts, Usage
from tests.support.damage import bent, garble, truncate

ANN = Persona(name="ann", background="You are Ann.")


def trajectory(number: int) -> Trajectory:
    futures = [Future(reward=(number * 7 + one) % 10 / 10) for one in range(4)]
    candidates = [Candidate(reward=0.5, futures=futures[:2]), Candidate(reward=0.4, futures=futures[2:])]
    usage = Usage()
    usage.count("assistant", "local:x", Counts(calls=6, input_tokens=number, output_tokens=2))
    return Trajectory(
        task=Task(id=f"task {number}", goal=f"You want {number}."),
        persona=ANN if number % 2 else None,
        messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        stopped="user",
        turns=[Turn(prompt=[{"role": "user", "content": "Hi"}], chosen=0, candidates=candidates)] * (number % 3),
        usage=usage,
    )


def finish(out: Path, numbers: Iterator[int] | range) -> None:
    with RunDirectory(out, settings={}, resume=True) as run:
        for number in numbers:
            run.finish(trajectory(number), sync=False)


def known(out: Path) -> dict[str, Any]:
    """What a run that is opened knows of its trajectories."""
    with RunDirectory(out, settings={}, resume=True) as run:
        run.add_totals({})
        # Sums of the same numbers in another order differ in their last digits.
        found = json.loads((out / "run.json").read_text(), parse_float=lambda text: round(float(text), 6))
        return {"finished": set(run.finished), "count": len(run.finished), "spent": run.spent, **found}


def without_index(out: Path, elsewhere: Path) -> dict[str, Any]:
    shutil.copytree(out, elsewhere)
    for file in elsewhere.glob("index.sqlite*"):
        file.unlink()
    return known(elsewhere)


ENDLESS = """
import sys
from itertools import count
from pathlib import Path
from tests.unit.runs.test_index import finish
finish(Path(sys.argv[1]), count(int(sys.argv[2])))
"""


def test_a_process_that_is_killed_at_any_time_leaves_an_index_that_is_right(tmp_path: Path) -> None:
    out, begun = tmp_path / "run", 0
    file = out / "trajectories.jsonl"
    for lines in (10, 990, 1500, 2400):
        process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(out), str(begun)], cwd=ROOT)
        while process.poll() is None and (not file.exists() or file.read_bytes().count(b"\n") < begun + lines):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        found = known(out)
        assert found == without_index(out, tmp_path / f"copy {lines}")
        assert found["finished"] == {one.task.id for one in read_trajectories(out)}
        begun = found["count"]


def foreign(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.executescript("CREATE TABLE tasks (x); PRAGMA user_version=99;")


@pytest.mark.parametrize("damage", [Path.unlink, truncate, garble, foreign, bent])
def test_an_index_that_is_missing_or_damaged_is_made_again(damage: Callable[[Path], None], tmp_path: Path) -> None:
    finish(tmp_path, range(40))
    before = known(tmp_path)
    damage(tmp_path / "index.sqlite")
    assert known(tmp_path) == before
    finish(tmp_path, range(40, 41))
    assert known(tmp_path)["count"] == 41


@pytest.mark.parametrize("kilobytes", [1400, 1500, 1600, 1700])  # So that the disk is full for one file or the other.
def test_a_disk_that_is_full_for_a_while_leaves_an_index_that_is_right(kilobytes: int, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "none", str(disk)], check=True)
    try:
        finish(disk / "run", range(100))
        with RunDirectory(disk / "run", settings={}, resume=True) as run:
            subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(disk)], check=True)
            with pytest.raises(RunDirectoryError, match="the disk is full"):  # noqa: PT012
                for number in range(100, 100_000):
                    run.finish(trajectory(number), sync=False)
            subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
            run.finish(trajectory(100_000))
        found = known(disk / "run")
        assert found == without_index(disk / "run", tmp_path / "copy")
        assert found["finished"] == {one.task.id for one in read_trajectories(disk / "run")}
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_an_index_of_fewer_more_or_other_trajectories_is_brought_up_to_date(tmp_path: Path) -> None:
    finish(tmp_path, range(20))
    file, index = tmp_path / "trajectories.jsonl", tmp_path / "index.sqlite"
    twenty, old = file.read_bytes(), index.read_bytes()
    finish(tmp_path, range(20, 30))
    index.write_bytes(old)
    assert known(tmp_path)["finished"] == {f"task {number}" for number in range(30)}
    file.write_bytes(twenty)
    assert known(tmp_path)["finished"] == {f"task {number}" for number in range(20)}
    file.write_bytes(b"".join(twenty.splitlines(keepends=True)[::-1]))
    assert known(tmp_path)["count"] == 20
    file.write_bytes(twenty.replace(b"task 1", b"tusk 1"))
    assert "tusk 1" in known(tmp_path)["finished"]


def test_trajectories_that_are_covered_are_not_read_again(tmp_path: Path) -> None:
    finish(tmp_path, range(100))
    before = known(tmp_path)
    with open(tmp_path / "trajectories.jsonl", "r+b") as file:
        file.write(b"[")
    assert known(tmp_path) == before


def test_a_finished_task_is_the_same_task_after_the_run_was_opened_again(tmp_path: Path) -> None:
    finish(tmp_path, range(4))
    with RunDirectory(tmp_path, settings={}, resume=True) as run:
        run.finish(trajectory(4))
        for number in range(5):
            one = trajectory(number)
            run.check_same(one.task, one.persona)
            with pytest.raises(RunDirectoryError, match="has changed since the run began"):
                run.check_same(one.task, None if one.persona else ANN)
            with pytest.raises(RunDirectoryError, match="has changed since the run began"):
                run.check_same(one.task.model_copy(update={"goal": "You want more."}), one.persona)
        assert "task 5" not in run.finished
        assert sorted(run.finished) == [f"task {number}" for number in range(5)]
