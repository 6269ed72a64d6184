"""Runs on a server with the API of S3: written, killed, resumed from another machine, and read by every command."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyarrow.fs import FileSelector, FileSystem

from benchmarks.process import ROOT, Server
from collab_agents import Parts
from collab_agents.errors import RunDirectoryError
from collab_agents.runs.directory import read_totals
from collab_agents.trajectories import read_trajectories
from tests.support.commands import run
from tests.support.runs import collect, generate
from tests.support.tasks import parties

SERVER = ROOT / ".bench" / "moto" / "bin" / "moto_server"
SECRET = "secret-of-the-test-1234"
RUN = "s3://bucket/runs/x"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server, which `make test` installs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = subprocess.DEVNULL
    process = subprocess.Popen([SERVER, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        while process.poll() is None:
            with socket.socket() as asking:
                if not asking.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileSystem:
    """An empty bucket, for this process and those that it starts."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    filesystem, _ = FileSystem.from_uri("s3://bucket?allow_bucket_creation=true")
    filesystem.create_dir("bucket")
    filesystem.delete_dir_contents("bucket", missing_dir_ok=True)
    return filesystem


async def test_every_command_reads_a_run_at_its_address(bucket: FileSystem, tmp_path: Path) -> None:
    done = await collect(parties(6), out=Parts(RUN, format="parquet", megabytes=0.02))
    assert {one.task.id: one for one in read_trajectories(RUN)} == done
    code, printed, _ = run("show", RUN, "--task", "party-3", "--brief")
    assert (code, "task party-3" in printed) == (0, True)
    code, printed, _ = run("dataset", "--from", RUN, "--kind", "sft", "--out", tmp_path / "data")
    assert (code, "6 sft rows of 6 trajectories" in printed) == (0, True)
    (part, *_) = (one.path for one in bucket.get_file_info(selector("bucket/runs/x/trajectories")))
    assert next(read_trajectories(f"s3://{part}")).task.id in done


def test_the_commands_write_runs_and_evaluations_at_addresses(
    serve: Callable[..., Server], bucket: FileSystem, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "assistant": {"model": {"name": "openai:any", "base_url": serve("--deterministic").url}},
        "user": {"kind": "agenda"},
        "judges": [{"name": "fact_coverage"}, {"name": "token_cost"}],
        "lookahead": {"candidates": 2, "futures": 1, "window": 1, "max_exchanges": 2},
        "tasks": {"source": "offline", "limit": 3},
    }
    file, judging = tmp_path / "run.yaml", tmp_path / "judges.yaml"
    file.write_text(yaml.safe_dump(settings))
    code, printed, _ = run("generate", "--config", file, "--out", RUN, "--parts", "parquet")
    assert (code, "3 new trajectories" in printed) == (0, True)
    code, printed, _ = run("generate", "--config", file, "--out", RUN, "--resume", "--limit", "4")
    assert (code, "1 new trajectories" in printed) == (0, True)
    names = [one.path.removeprefix("bucket/runs/x/") for one in bucket.get_file_info(selector("bucket")) if one.is_file]
    assert sorted(name for name in names if "part-" in name) == [
        "trajectories/part-00000.parquet",
        "trajectories/part-00001.parquet",
    ]
    code, _, error = run("generate", "--config", file, "--out", RUN)
    assert (code, error) == (1, f"error: {RUN} already holds a run: resume it, or choose another directory\n")

    judging.write_text(yaml.safe_dump({"judges": [{"name": "token_cost", "options": {"rate": 0.1}}]}))
    code, printed, _ = run("rejudge", RUN, "--config", judging, "--out", "s3://bucket/again")
    assert (code, "4 trajectories judged again" in printed) == (0, True)
    file.write_text(yaml.safe_dump({key: value for key, value in settings.items() if key != "lookahead"}))
    code, printed, _ = run("evaluate", "--config", file, "--out", "s3://bucket/eval", "--parts", "jsonl")
    assert (code, "Also in s3://bucket/eval/scorecard.md" in printed) == (0, True)
    assert b"# Scorecard" in bucket.open_input_stream("bucket/eval/scorecard.md").read()
    assert not list((tmp_path / "cache" / "collab-agents").glob("runs/*"))


def selector(path: str) -> Any:
    return FileSelector(path, recursive=True)


PLAY = """
import asyncio, sys
from collab_agents import Parts
from tests.support.runs import collect
from tests.support.tasks import parties
asyncio.run(collect(parties(100000), out=Parts(sys.argv[1], format="parquet", megabytes=0.05), resume=True))
"""


async def test_a_lost_machine_loses_no_part_that_was_uploaded(bucket: FileSystem, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", PLAY, RUN], cwd=ROOT)  # noqa: ASYNC220
    folder = selector("bucket/runs/x/trajectories")
    folder.allow_not_found = True
    while process.poll() is None and len(bucket.get_file_info(folder)) < 3:
        time.sleep(0.02)  # noqa: ASYNC251
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    uploaded = [one.task.id for one in read_trajectories(RUN)]
    assert len(uploaded) == len(set(uploaded)) > 2
    (here,) = (tmp_path / "cache" / "collab-agents" / "runs").glob("x-*")
    shutil.copytree(here, tmp_path / "lost")
    shutil.rmtree(tmp_path / "cache")  # It is lost, and another machine goes on.
    rest = await collect(parties(len(uploaded) + 5), out=RUN, resume=True)
    assert not set(rest) & set(uploaded)
    found = [one.task.id for one in read_trajectories(RUN)]
    assert sorted(found) == sorted({*uploaded, *rest})
    assert read_totals(RUN)["trajectories"] == len(found)
    with pytest.raises(RunDirectoryError, match="continued from another machine or folder"):
        await collect(parties(5), out=Parts(RUN, folder=tmp_path / "lost"), resume=True)


async def test_the_same_machine_goes_on_with_the_open_part(bucket: FileSystem, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", PLAY, RUN], cwd=ROOT)  # noqa: ASYNC220
    runs = tmp_path / "cache" / "collab-agents" / "runs"
    while process.poll() is None and not list(runs.glob("x-*/trajectories/part-00002.jsonl")):
        time.sleep(0.001)  # noqa: ASYNC251
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (folder,) = runs.glob("x-*")
    here = {one.task.id for one in read_trajectories(folder)}
    kept = {one.task.id for one in read_trajectories(RUN)} | here
    last = max(int(one.removeprefix("party-")) for one in kept)
    rest = await collect(parties(last + 60), out=RUN, resume=True)
    assert not set(rest) & kept
    found = [one.task.id for one in read_trajectories(RUN)]
    assert sorted(found) == sorted({*kept, *rest})
    assert not list(runs.glob("*"))


async def test_a_run_that_is_broken_off_is_at_its_address(bucket: FileSystem) -> None:
    stream = generate(parties(50), out=RUN, max_concurrency=2)
    async with stream:
        async for _ in stream:
            break
    assert len(list(read_trajectories(RUN))) >= 1


async def test_secrets_are_in_no_error_and_no_file(bucket: FileSystem) -> None:
    with pytest.raises(RunDirectoryError) as error:
        await collect(parties(1), out="s3://no-such-bucket/run")
    assert "s3://no-such-bucket/run" in str(error.value)
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)
    await collect(parties(1), out=RUN)
    for one in bucket.get_file_info(selector("bucket")):
        if one.is_file:
            assert SECRET.encode() not in bucket.open_input_stream(one.path).read()


async def test_a_server_that_does_not_answer_is_one_sentence(bucket: FileSystem) -> None:
    address = f"{RUN}?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    with pytest.raises(RunDirectoryError, match=r"^s3://bucket/runs/x.* cannot be used: .*[Cc]onnect"):
        list(read_trajectories(address))
