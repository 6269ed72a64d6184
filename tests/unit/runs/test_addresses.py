"""Runs at addresses: what is at the address, what stays on this machine until then, and whose run it is."""

import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from langchain_core.messages import BaseMessage

from collab_agents import MultiturnReward, Parts, ScriptedUser, evaluate
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.judges import token_cost
from collab_agents.participants import AssistantContext, Memory
from collab_agents.runs import TaskSet, rejudge
from collab_agents.runs.directory import read_failures, read_totals
from collab_agents.runs.parts import PartFormat
from collab_agents.trajectories import Trajectory, read_trajectories
from tests.support.participants import Counts
from tests.support.runs import collect
from tests.support.tasks import parties

RUN = "memory://bucket/run"
pytestmark = pytest.mark.usefixtures("memory")


def there(memory: Any) -> set[str]:
    return {name.removeprefix("/bucket/run/") for name in memory.store}


def working_folders(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "collab-agents" / "runs").glob("*"))


def kept(address: str | Path = RUN) -> dict[str, Trajectory]:
    return {one.task.id: one for one in read_trajectories(address)}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
async def test_a_finished_run_is_at_its_address_and_nothing_is_left_here(
    kind: PartFormat, memory: Any, tmp_path: Path
) -> None:
    done = await collect(parties(8), out=Parts(RUN, format=kind, megabytes=0.02))
    assert kept() == done
    names = there(memory)
    assert json.loads(memory.cat("/bucket/run/run.json"))["in_parts"] == {"format": kind, "megabytes": 0.02}
    assert names > {"run.json", "failures.jsonl", f"trajectories/part-00001.{kind}"}
    assert all(name.endswith(kind) for name in names if name.startswith("trajectories/"))
    assert read_totals(RUN)["trajectories"] == 8
    assert working_folders(tmp_path) == []


async def test_a_run_goes_on_at_its_address(memory: Any, tmp_path: Path) -> None:
    first = await collect(parties(6), out=RUN, assistant=Counts(fail_on="number 1"))
    assert [one.task.id for one in read_failures(RUN)] == ["party-1"]
    assert len(working_folders(tmp_path)) == 1
    with pytest.raises(RunDirectoryError, match="memory://bucket/run already holds a run"):
        await collect(parties(6), out=RUN)
    rest = await collect(parties(9), out=Path(RUN), resume=True)  # As the command line hands it on.
    assert kept() == first | rest
    assert len(first) + len(rest) == 9
    assert read_failures(RUN) == []
    assert await collect(parties(9), out=RUN, resume=True) == {}
    assert working_folders(tmp_path) == []


async def test_another_machine_goes_on_with_the_parts_that_are_there(memory: Any, tmp_path: Path) -> None:
    out = Parts(RUN, megabytes=0.01, folder=tmp_path / "here")
    await collect(parties(6), out=out, assistant=Counts(fail_on="number 1"))
    before = kept()
    rest = await collect(parties(8), out=Parts(RUN, folder=tmp_path / "elsewhere"), resume=True)
    assert set(rest) == {"party-1", "party-6", "party-7"}
    assert kept() == before | rest
    with pytest.raises(RunDirectoryError, match=r"continued from another machine or folder: delete .*here and resume"):
        await collect(parties(8), out=out, resume=True)
    shutil.rmtree(tmp_path / "here")
    assert await collect(parties(8), out=out, resume=True) == {}


class WaitsForTheAddress(Counts):
    """Fails in one task, and holds the others until the failure is at the address."""

    def __init__(self, memory: Any) -> None:
        super().__init__(fail_on="number 1")
        self.memory = memory

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        said = await super().respond(messages, memory, context)
        async with asyncio.timeout(20):
            while b"party-1" not in self.memory.store.get("/bucket/run/failures.jsonl", BytesIO()).getvalue():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return said


async def test_what_is_new_is_uploaded_while_the_run_goes_on(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collab_agents.runs._closing._EVERY", 0.05)
    done = await collect(parties(3), out=RUN, assistant=WaitsForTheAddress(memory))
    assert set(done) == {"party-0", "party-2"}


class Refuses(MemoryFileSystem):
    protocol = ("refuses",)
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    refusing = True

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if self.refusing and mode == "wb" and "part-" in path:
            raise OSError("no room on the server")
        return super()._open(path, mode, **options)


async def test_an_upload_that_fails_is_one_sentence_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fsspec.register_implementation("refuses", Refuses, clobber=True)
    monkeypatch.setattr("collab_agents._internal.addresses._WAITS", (0.0, 0.0))
    address = "refuses://bucket/run"
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(RunDirectoryError, match=r"^refuses://bucket/run/trajectories/part-.*: no room on"),
    ):
        await collect(parties(5), out=Parts(address, megabytes=0.01))
    assert kept(address) == {}
    assert len([record for record in caplog.records if "no room" in record.message]) == 1
    monkeypatch.setattr(Refuses, "refusing", False)
    assert await collect(parties(5), out=address, resume=True) == {}
    assert len(kept(address)) == 5
    assert working_folders(tmp_path) == []


async def test_a_part_that_was_uploaded_just_before_a_kill_counts_once(memory: Any, tmp_path: Path) -> None:
    here = tmp_path / "here"
    out = Parts(RUN, folder=here)
    await collect(parties(4), out=out, assistant=Counts(fail_on="number 1"))
    (here / "trajectories").mkdir(exist_ok=True)
    name = "trajectories/part-00000.jsonl"
    (here / name).write_bytes(memory.cat(f"/bucket/run/{name}"))
    rest = await collect(parties(4), out=out, resume=True)
    assert list(rest) == ["party-1"]
    assert sorted(one.task.id for one in read_trajectories(RUN)) == [f"party-{number}" for number in range(4)]


async def test_evaluations_and_judging_again_read_and_write_addresses(memory: Any, tmp_path: Path) -> None:
    reward = MultiturnReward({"cost": token_cost()})
    tasks = TaskSet("trips", list(parties(3)), ScriptedUser(["Hi"]), reward)
    card = await evaluate([tasks], {"counts": Counts()}, out="memory://bucket/eval")
    again = await evaluate([tasks], {"counts": Counts()}, out="memory://bucket/eval", resume=True)
    assert again == card
    done = await collect(parties(3), out=RUN)
    judged = {one.task.id async for one in rejudge(read_trajectories(RUN), reward=reward, out="memory://bucket/again")}
    assert judged == set(done) == set(kept("memory://bucket/again"))
    assert json.loads(memory.cat("/bucket/again/run.json"))["choices"]["turns"] > 0
    assert working_folders(tmp_path) == []


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("s3://me:hunter22@bucket/run", "s3://bucket/run: an address holds no secrets"),
        ("s3://bucket/run?secret_key=hunter22", "s3://bucket/run: an address holds no secrets"),
        ("nowhere://bucket/run", "nowhere://bucket/run: Protocol not known"),
    ],
)
async def test_an_address_that_cannot_be_used_is_one_sentence(address: str, sentence: str) -> None:
    for read in (lambda: list(read_trajectories(address)), lambda: read_totals(address)):
        with pytest.raises(ConfigError, match=sentence) as error:
            read()
        assert "hunter22" not in str(error.value)
    with pytest.raises(ConfigError, match=sentence):
        await collect(parties(1), out=address)


async def test_without_the_extra_an_address_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ConfigError, match=r"pip install 'collab-agents\[data\]' \(fsspec is missing\)"):
        list(read_trajectories(RUN))


def test_the_library_imports_without_arrow() -> None:
    code = "import sys, collab_agents.runs, collab_agents.cli.app; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ.copy()).returncode == 0
