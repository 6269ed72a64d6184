"""Parts of a run: nothing is lost or counted twice, whenever the process ends, and each format holds the same lines."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from datasets import load_dataset
from langchain_core.messages import AIMessage, BaseMessage

from benchmarks.process import ROOT
from collab_agents import MultiturnReward, Parts, Persona, ScriptedUser, Task, evaluate
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.judges import token_cost
from collab_agents.participants import AssistantContext, Memory
from collab_agents.runs import TaskSet, play_conversations
from collab_agents.runs.parts import PartFormat
from collab_agents.trajectories import Trajectory, read_trajectories
from tests.support.participants import Counts
from tests.support.runs import collect
from tests.support.tasks import parties

FORMATS = pytest.mark.parametrize("kind", ["jsonl", "parquet"])


def files(run: Path) -> list[str]:
    return sorted(file.name for file in (run / "trajectories").iterdir())


def kept(run: Path) -> dict[str, Trajectory]:
    return {one.task.id: one for one in read_trajectories(run)}


def ids(run: Path) -> list[str]:
    return [one.task.id for one in read_trajectories(run)]


@FORMATS
async def test_a_run_in_parts_reads_and_resumes_like_one_in_one_file(kind: PartFormat, tmp_path: Path) -> None:
    ann = Persona(name="ann", background="You are Ann.")
    out = Parts(tmp_path / "run", format=kind, megabytes=0.01)
    first = await collect(parties(9), out=out, personas=[ann], assistant=Counts(fail_on="number 1"))
    assert kept(tmp_path / "run") == first
    assert len(files(tmp_path / "run")) > 2
    assert {Path(name).suffix for name in files(tmp_path / "run")} == {f".{kind}"}
    assert not (tmp_path / "run" / "trajectories.jsonl").exists()
    rest = await collect(parties(12), out=tmp_path / "run", personas=[ann], resume=True)
    assert set(first) | set(rest) == {task.id for task in parties(12)}
    assert not set(first) & set(rest)
    assert kept(tmp_path / "run") == first | rest
    assert {Path(name).suffix for name in files(tmp_path / "run")} == {f".{kind}"}
    assert await collect(parties(12), out=tmp_path / "run", personas=[ann], resume=True) == {}
    totals = json.loads((tmp_path / "run" / "run.json").read_text())["totals"]
    assert (totals["trajectories"], totals["failures"]) == (12, 0)


async def test_a_parquet_part_has_the_exact_lines_and_columns_to_filter_by(tmp_path: Path) -> None:
    ann = Persona(name="ann", background="You are Ann.")
    await collect(parties(5), out=Parts(tmp_path / "lines"), personas=[ann])
    await collect(parties(5), out=Parts(tmp_path / "run", format="parquet"), personas=[ann])
    (file,) = (tmp_path / "run" / "trajectories").iterdir()
    table = pyarrow.parquet.read_table(file)
    lines = table.column("trajectory").to_pylist()
    written = (tmp_path / "lines" / "trajectories" / "part-00000.jsonl").read_text().splitlines()
    assert sorted(lines) == sorted(written)
    for row, line in zip(table.drop_columns("trajectory").to_pylist(), lines, strict=True):
        one = Trajectory.model_validate_json(line)
        assert row == {
            "task_id": one.task.id,
            "kind": "invitation",
            "persona": "ann",
            "seed": one.seed,
            "reward": one.reward,
            "stopped": one.stopped,
            "exchanges": len(one.turns),
            "calls": one.usage.calls,
            "input_tokens": one.usage.input_tokens,
            "output_tokens": one.usage.output_tokens,
            "dollars": one.usage.cost,
        }


@FORMATS
async def test_datasets_loads_the_parts(kind: PartFormat, tmp_path: Path) -> None:
    done = await collect(parties(6), out=Parts(tmp_path / "run", format=kind, megabytes=0.01))
    name = "json" if kind == "jsonl" else kind
    pattern = str(tmp_path / "run" / "trajectories" / f"*.{kind}")
    rows = load_dataset(name, data_files=pattern, split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(rows["reward"]) == sorted(one.reward or 0.0 for one in done.values())


class Says:
    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        return [AIMessage(f"A draft: {'word ' * 200}")], memory


async def play(out: Any, count: int) -> list[str]:
    played = play_conversations(
        (Task(id=f"task {number}", goal="You want a draft.") for number in range(count)),
        user=ScriptedUser(["A draft, please."]),
        assistant=Says(),
        reward=MultiturnReward({"token_cost": token_cost()}),
        max_exchanges=1,
        out=out,
        resume=True,
    )
    return [one.task.id async for one in played]


PLAY = """
import asyncio, sys
from collab_agents import Parts
from tests.unit.runs.test_parts import play
asyncio.run(play(Parts(sys.argv[1], format=sys.argv[2], megabytes=0.02), 10**6))
"""


@FORMATS
def test_a_process_that_is_killed_at_any_time_loses_and_repeats_nothing(kind: str, tmp_path: Path) -> None:
    run, parts = tmp_path / "run", 0
    folder = run / "trajectories"
    for more in (2, 4, 2, 3):
        process = subprocess.Popen([sys.executable, "-c", PLAY, str(run), kind], cwd=ROOT)
        while process.poll() is None and len(list(folder.glob("part-*"))) < parts + more:
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        finished = ids(run)
        assert len(finished) == len(set(finished))
        parts = len(list(folder.glob("part-*")))
    rest = asyncio.run(play(run, max(int(one.split()[1]) for one in finished) + 20))
    assert not set(rest) & set(finished)
    assert sorted(ids(run)) == sorted([*finished, *rest])
    if kind == "parquet":
        assert {Path(name).suffix for name in files(run)} == {".parquet"}


def test_whoever_reads_a_run_that_goes_on_sees_every_finished_task_once(tmp_path: Path) -> None:
    run, seen, looks = tmp_path / "run", set[str](), 0
    process = subprocess.Popen([sys.executable, "-c", PLAY, str(run), "parquet"], cwd=ROOT)
    try:
        while looks < 40:
            assert process.poll() is None
            if not (run / "trajectories").exists():
                continue
            now = ids(run)
            assert len(now) == len(set(now))
            assert seen <= set(now)
            looks += len(now) > len(seen)
            seen = set(now)
    finally:
        process.kill()
        process.wait()


async def test_a_conversion_that_was_cut_short_is_undone_or_taken_for_done(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = run / "trajectories"
    await play(Parts(run, megabytes=0.02), 40)
    lines = {file.name: file.read_bytes() for file in folder.iterdir()}
    before = ids(run)
    await play(Parts(run, format="parquet", megabytes=0.02), 40)
    assert {Path(name).suffix for name in files(run)} == {".parquet"}
    (folder / "part-00000.jsonl").write_bytes(lines["part-00000.jsonl"])  # Not deleted yet.
    (folder / "part-00001.parquet").rename(folder / "part-00001.parquet.new")  # Not whole yet.
    (folder / "part-00001.jsonl").write_bytes(lines["part-00001.jsonl"])
    assert ids(run) == before
    assert await play(run, 40) == []
    assert ids(run) == before
    assert files(run) == [f"part-{number:05}.parquet" for number in range(len(lines))]


async def test_a_run_in_one_file_goes_on_in_parts(tmp_path: Path) -> None:
    first = await collect(parties(4), out=tmp_path)
    rest = await collect(parties(8), out=Parts(tmp_path, format="parquet"), resume=True)
    assert kept(tmp_path) == first | rest
    assert len(first) + len(rest) == 8


async def test_an_evaluation_keeps_its_runs_in_parts(tmp_path: Path) -> None:
    tasks = TaskSet("trips", list(parties(4)), ScriptedUser(["Hi"]), MultiturnReward({"cost": token_cost()}))
    card = await evaluate([tasks], {"says": Says()}, out=Parts(tmp_path, format="parquet"), repeats=2)
    assert card.sets[0].sides[0].finished == 8
    assert files(tmp_path / "trips" / "says" / "seed-1") == ["part-00000.parquet"]
    again = await evaluate([tasks], {"says": Says()}, out=tmp_path, repeats=2, resume=True)
    assert again == card


async def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    await collect(parties(2), out=Parts(run, format="parquet"))
    shutil.copytree(run, tmp_path / "half")
    (tmp_path / "half" / "run.json").unlink()
    with pytest.raises(RunDirectoryError, match=r"has parts and no run\.json: it was not written to its end"):
        list(read_trajectories(tmp_path / "half"))
    (run / "trajectories" / "part-00000.parquet").write_bytes(b"nothing of a table")
    with pytest.raises(RunDirectoryError, match=r"part-00000\.parquet is not a Parquet file, or is damaged"):
        list(read_trajectories(run))
    for wrong, sentence in (
        ({"format": "csv"}, "format must be jsonl or parquet, got 'csv'"),
        ({"megabytes": 0}, "megabytes must be more than 0, got 0"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            Parts(run, **wrong)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"need pip install 'collab-agents\[data\]' \(pyarrow is missing\)"):
        Parts(run, format="parquet")
