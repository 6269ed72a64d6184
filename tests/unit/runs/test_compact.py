"""Compaction: the same lines in few large parts, from anything that holds trajectories, and never half of it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.process import ROOT
from collab_agents import Parts
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.runs import compact
from collab_agents.runs.directory import read_config, read_totals
from collab_agents.runs.parts import PartFormat
from collab_agents.trajectories import Trajectory, read_lines, read_trajectories
from tests.support.commands import run
from tests.support.participants import Counts
from tests.support.runs import collect
from tests.support.tasks import parties


def lines(path: Any) -> list[bytes]:
    return [line for _, _, line in read_lines(path)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
async def test_files_folders_parts_and_addresses_become_one_run(kind: PartFormat, memory: Any, tmp_path: Path) -> None:
    tasks = list(parties(12))
    await collect(tasks[:3], out=tmp_path / "one", assistant=Counts(fail_on="number 1"))
    await collect(tasks[3:6], out=Parts(tmp_path / "parts", format="parquet", megabytes=0.01))
    await collect(tasks[6:9], out="memory://bucket/run", seed=1)
    await collect(tasks[9:], out=tmp_path / "file")
    sources: list[str | Path] = [
        tmp_path / "one",
        tmp_path / "parts",
        "memory://bucket/run",
        tmp_path / "file" / "trajectories.jsonl",
    ]
    before = [line for source in sources for line in lines(source)]
    for out in (tmp_path / "all", "memory://bucket/all"):
        assert compact(sources, out, format=kind, megabytes=0.03) == 11
        assert lines(out) == before
        assert read_config(out)["compacted_from"] == [str(source) for source in sources]
        totals = read_totals(out)
        assert (totals["trajectories"], totals["turns"]) == (11, sum(len(one.turns) for one in read_trajectories(out)))
        with pytest.raises(RunDirectoryError, match="holds something already: choose another directory"):
            compact(sources, out)
    assert [line for source in sources for line in lines(source)] == before
    assert 1 < len(list((tmp_path / "all" / "trajectories").glob(f"part-*.{kind}"))) < 12


async def test_the_command_compacts_and_what_it_makes_is_read_by_the_others(tmp_path: Path) -> None:
    done = await collect(parties(5), out=tmp_path / "run")
    code, printed, _ = run("compact", tmp_path / "run", "--out", tmp_path / "all", "--megabytes", "1")
    assert (code, printed.split()[:2]) == (0, ["5", "trajectories"])
    assert {one.task.id: one for one in read_trajectories(tmp_path / "all")} == done
    code, printed, _ = run("show", tmp_path / "all")
    assert (code, "5 trajectories" in printed) == (0, True)
    code, printed, _ = run("dataset", "--from", tmp_path / "all", "--kind", "sft", "--out", tmp_path / "data")
    assert (code, "5 sft rows of 5 trajectories" in printed) == (0, True)


def test_an_interrupted_compaction_looks_like_no_run(tmp_path: Path) -> None:
    one = Trajectory(
        task=next(iter(parties(1))), messages=[{"role": "user", "content": "Hi" * 500}], stopped="user", turns=[]
    )
    source, out = tmp_path / "lines.jsonl", tmp_path / "all"
    source.write_text((one.model_dump_json() + "\n") * 20_000)
    command = [sys.executable, "-m", "collab_agents", "compact", str(source), "--out", str(out), "--megabytes", "1"]
    process = subprocess.Popen(command, cwd=ROOT)
    while process.poll() is None and not (out / "trajectories" / "part-00001.parquet").exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(RunDirectoryError, match=r"has parts and no run\.json"):
        list(read_trajectories(out))
    code, _, errors = run("compact", source, "--out", out)
    assert (code, "holds something already" in errors) == (1, True)


def test_what_cannot_be_compacted_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps({"task": {"id": "a"}}) + "\n")
    (tmp_path / "empty.jsonl").write_text("")
    for source, sentence in (
        ("bad.jsonl", r"bad\.jsonl:1: it is not a trajectory"),
        ("empty.jsonl", r"empty\.jsonl: there is no finished trajectory"),
        ("none", "is it a run directory"),
    ):
        with pytest.raises(RunDirectoryError, match=sentence):
            compact([tmp_path / source], tmp_path / f"out {source}")
    with pytest.raises(ConfigError, match="name at least one"):
        compact([], tmp_path / "out")
