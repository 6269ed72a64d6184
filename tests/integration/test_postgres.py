"""Unfinished tasks in a PostgreSQL database that several runs and processes share. The server is real."""

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from langchain_core.messages import AIMessage, BaseMessage

from benchmarks.process import Server
from collab_agents import MultiturnReward, ScriptedUser, read_trajectories
from collab_agents.config import RunConfig, load_config
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.judges import token_cost
from collab_agents.participants import AssistantContext
from collab_agents.runs import TaskSet, evaluate, play_conversations
from collab_agents.runs.postgres import PostgresTurns
from collab_agents.trajectories import Trajectory
from collab_agents.users import Memory
from tests.support.commands import run, start
from tests.support.participants import Counts, Tires
from tests.support.postgres import PASSWORD, PostgresServer
from tests.support.tasks import parties

TURNS = 4
LINES = ScriptedUser(["one", "two", "three", "four"])
COST = MultiturnReward({"token_cost": token_cost()})
TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")


async def play(tasks: Any, assistant: Any = None, **options: Any) -> dict[str, Trajectory]:
    parts: dict[str, Any] = {"user": LINES, "assistant": assistant or Counts(), "reward": COST}
    played = play_conversations(tasks, max_exchanges=TURNS, **(parts | options))
    return {one.task.id: one async for one in played}


def rows(postgres: PostgresServer, database: str) -> dict[str, int]:
    return {table: postgres.query(database, f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}


async def test_a_task_has_one_state_while_it_is_played_and_none_when_it_is_finished(
    postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    checkpoints = postgres.address(database)
    assert await play(parties(3), Tires(4), out=tmp_path, checkpoints=checkpoints) == {}
    assert rows(postgres, database) == {"checkpoints": 3, "checkpoint_blobs": 3, "checkpoint_writes": 0}
    rested = Tires(0)
    done = await play(parties(3), rested, out=tmp_path, resume=True, checkpoints=checkpoints)
    assert rested.calls == 3
    assert done == await play(parties(3), Tires(0))
    assert rows(postgres, database) == dict.fromkeys(TABLES, 0)


async def test_runs_in_one_database_do_not_mix(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    checkpoints = postgres.address(database)
    await asyncio.gather(
        play(parties(3), Tires(2), out=tmp_path / "a", checkpoints=checkpoints, seed=1),
        play(parties(3), Tires(4), out=tmp_path / "b", checkpoints=checkpoints, seed=2),
    )
    for name, turns, seed in (("a", 3, 1), ("b", 1, 2)):
        rested = Tires(0)
        done = await play(parties(3), rested, out=tmp_path / name, resume=True, checkpoints=checkpoints, seed=seed)
        assert rested.calls == 3 * turns
        assert done == await play(parties(3), Tires(0), seed=seed)


@pytest.mark.parametrize("old", [False, True])
async def test_a_run_that_began_in_its_folder_goes_on_in_a_database(
    old: bool, postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    await play(parties(3), Tires(3), out=tmp_path)
    if old:  # Earlier versions gave a run no id.
        file = tmp_path / "run.json"
        file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if '"id"' not in line))
    rested, checkpoints = Tires(4), postgres.address(database)
    await play(parties(3), rested, out=tmp_path, resume=True, checkpoints=checkpoints)
    assert rested.calls == 3
    assert rows(postgres, database)["checkpoints"] == 3
    done = await play(parties(3), rested := Tires(0), out=tmp_path, resume=True, checkpoints=checkpoints)
    assert rested.calls == 3
    assert done == await play(parties(3), Tires(0))


async def test_a_run_that_leaves_its_database_begins_its_unfinished_tasks_again(
    postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    await play(parties(3), Tires(3), out=tmp_path, checkpoints=postgres.address(database))
    done = await play(parties(3), rested := Tires(0), out=tmp_path, resume=True)
    assert rested.calls == 3 * TURNS
    assert len(done) == 3


async def test_any_task_id_is_kept_and_found_again(postgres: PostgresServer, database: str) -> None:
    ids = ["a/b", "ü ∀ 猫", "100%", "a\x00b", "half \ud83c", "/", " "]
    async with PostgresTurns(postgres.address(database), "run") as turns:
        for task_id in ids:
            state = {"messages": [AIMessage(f"{task_id} \x00")], "of": task_id.encode(errors="ignore")}
            await turns.keep(task_id, state)
        assert sorted(await turns.task_ids()) == sorted(ids)
        for task_id in ids:
            found = await turns.last(task_id)
            assert found is not None
            assert found["of"] == task_id.encode(errors="ignore")
            await turns.forget(task_id)
        assert await turns.task_ids() == []
        assert await turns.last("a/b") is None


async def test_a_slow_database_delays_a_run_and_does_not_end_it(postgres: PostgresServer, database: str) -> None:
    sleep = "BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END"
    trigger = "BEFORE INSERT ON checkpoints FOR EACH ROW EXECUTE FUNCTION slow()"
    names = [f"task-{number}" for number in range(48)]  # With 4 connections, the last waits longer than for a server.
    async with PostgresTurns(postgres.address(database), "run") as turns:
        postgres.query(database, f"CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS '{sleep}'")
        postgres.query(database, f"CREATE TRIGGER slow {trigger}")
        await asyncio.gather(*(turns.keep(name, {"messages": []}) for name in names))
        assert sorted(await turns.task_ids()) == sorted(names)


async def test_a_run_whose_own_code_takes_all_threads_keeps_its_turns(
    postgres: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collab_agents.runs.postgres._PATIENCE", 1.0)
    over = threading.Event()
    async with PostgresTurns(postgres.address(database), "run") as turns:
        busy = [asyncio.create_task(asyncio.to_thread(over.wait)) for _ in range(64)]
        keeping = asyncio.create_task(turns.keep("task", {"messages": []}))
        await asyncio.wait([keeping], timeout=2)
        over.set()
        await keeping
        await asyncio.gather(*busy)
        assert await turns.task_ids() == ["task"]


async def test_a_server_that_stops_answering_ends_the_wait(
    postgres: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collab_agents.runs.postgres._PATIENCE", 1.0)
    async with PostgresTurns(postgres.address(database), "run") as turns:
        await turns.keep("task", {"messages": [], "turn": 1})
        with psycopg.connect(postgres.address(database)) as other:
            other.execute("LOCK TABLE checkpoints")
            with pytest.raises(RunDirectoryError, match="no answer within 1 seconds; fix that and resume"):
                await turns.keep("task", {"messages": [], "turn": 2})
        assert await turns.last("task") == {"messages": [], "turn": 1}


KEEP = """
import asyncio, sys
from collab_agents.runs.postgres import PostgresTurns

async def keep(address, run, name):
    async with PostgresTurns(address, run) as turns:
        for number in range(20):
            await turns.keep(name, {"messages": [], "number": number})

asyncio.run(keep(*sys.argv[1:]))
"""


async def test_processes_that_begin_together_in_an_empty_database_share_it(
    postgres: PostgresServer, database: str
) -> None:
    names = [f"task-{number}" for number in range(4)]
    address = postgres.address(database)
    begin = [asyncio.create_subprocess_exec(sys.executable, "-c", KEEP, address, "run", name) for name in names]
    processes = await asyncio.gather(*begin)
    assert [await process.wait() for process in processes] == [0] * len(names)
    async with PostgresTurns(address, "run") as turns:
        assert sorted(await turns.task_ids()) == names
        assert [await turns.last(name) for name in names] == [{"messages": [], "number": 19}] * len(names)
    assert rows(postgres, database)["checkpoint_blobs"] == len(names)
    valid = "SELECT bool_and(indisvalid), count(*) FROM pg_index WHERE indrelid = 'checkpoint_blobs'::regclass"
    assert postgres.query(database, valid) == [(True, 2)]


async def test_many_that_begin_together_wait_for_one_to_make_the_tables(
    postgres: PostgresServer, database: str
) -> None:
    async def count(run: str) -> int:
        async with PostgresTurns(postgres.address(database), run) as turns:
            return len(await turns.task_ids())

    assert await asyncio.gather(*(count(f"run-{number}") for number in range(16))) == [0] * 16


class Leaks(Counts):
    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        if len(messages) > 4:
            raise RuntimeError(f"too tired for {PASSWORD}")
        return [AIMessage(f"The password is {PASSWORD}.")], memory | {"password": PASSWORD}


@pytest.mark.parametrize("given_in", ["PGPASSWORD", "PGPASSFILE"])
async def test_the_password_is_in_no_file_and_no_table(
    given_in: str, postgres: PostgresServer, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:*:{PASSWORD}\n")
    passfile.chmod(0o600)
    monkeypatch.setenv(given_in, PASSWORD if given_in == "PGPASSWORD" else str(passfile))
    out = tmp_path / "run"
    await play(parties(3), Leaks(), out=out, checkpoints=postgres.over_tcp(database))
    for file in out.iterdir():
        assert PASSWORD.encode() not in file.read_bytes(), file
    found = [bytes(blob) for (blob,) in postgres.query(database, "SELECT blob FROM checkpoint_blobs")]
    assert len(found) == 3
    assert all(b"The password is ***" in blob and PASSWORD.encode() not in blob for blob in found)
    async with PostgresTurns(postgres.over_tcp(database), "another") as turns:
        assert turns.password == PASSWORD
    monkeypatch.delenv(given_in)
    async with PostgresTurns(postgres.over_tcp(database), "another", password=PASSWORD) as turns:
        assert await turns.task_ids() == []


class Pulls(Counts):
    """Ends the server in the middle of a run."""

    def __init__(self, server: PostgresServer, at: int) -> None:
        super().__init__()
        self.server = server
        self.at = at

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        if self.calls == self.at:
            self.server.kill()
        return await super().respond(messages, memory, context)


async def test_a_server_that_goes_away_ends_the_run_in_one_sentence_and_it_resumes(
    postgres: PostgresServer, database: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"out": tmp_path, "checkpoints": postgres.address(database), "max_concurrency": 3}
    began = time.monotonic()
    try:
        with pytest.raises(RunDirectoryError, match=r"cannot be used: .*; fix that and resume$") as error:
            await play(parties(12), Pulls(postgres, 20), **options)
    finally:
        postgres.start()
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 15
    kept = [one.task.id for one in read_trajectories(tmp_path)]
    left = sum(postgres.query(database, "SELECT count(*) FROM checkpoints")[0])
    assert 0 < len(kept) < 12
    assert left > 0
    rest = await play(parties(12), after := Counts(), **options, resume=True)
    assert sorted([*kept, *rest]) == sorted(task.id for task in parties(12))
    assert after.calls < (12 - len(kept)) * TURNS, "no turn was kept"
    assert {one.task.id: one for one in read_trajectories(tmp_path)} == await play(parties(12), Counts())
    assert rows(postgres, database) == dict.fromkeys(TABLES, 0)
    assert capfd.readouterr().err == ""


async def test_a_server_that_restarts_between_turns_is_not_noticed(
    postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    class Restarts(Pulls):
        async def respond(
            self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
        ) -> tuple[list[BaseMessage], Memory]:
            found = await super().respond(messages, memory, context)
            if self.server.process.poll() is not None:
                self.server.start()
            return found

    restarting = Restarts(postgres, 5)
    done = await play(parties(3), restarting, out=tmp_path, checkpoints=postgres.address(database), max_concurrency=1)
    assert len(done) == 3
    assert restarting.calls == 3 * TURNS


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("where", "password", "sentence"),
    [
        ("a port without a server", None, r"port \d+ failed: Connection refused; fix that"),
        ("a machine that does not exist", None, r"failed to resolve host 'no\.invalid': .*; fix that"),
        ("a server that says nothing", None, r"connection timeout expired; fix that"),
        ("another database", PASSWORD, 'failed: database "nothing" does not exist; fix that'),
        ("the database", "wrong", 'failed: password authentication failed for user "ann"; fix that'),
        ("the database", None, "no password supplied; give the password in PGPASSWORD, PGPASSFILE or ~/.pgpass"),
        ("a table that is another's", PASSWORD, 'column "v" does not exist; fix that'),
    ],
)
async def test_what_keeps_a_database_from_being_used_is_said_in_one_sentence(
    where: str,
    password: str | None,
    sentence: str,
    postgres: PostgresServer,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    monkeypatch.delenv("PGPASSWORD", raising=False)
    if password:
        monkeypatch.setenv("PGPASSWORD", password)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = {
            "a port without a server": f"postgresql://ann@127.0.0.1:{closed_port()}/x",
            "a machine that does not exist": "postgresql://ann@no.invalid/x",
            "a server that says nothing": f"postgres://ann@127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=2",
            "another database": postgres.over_tcp("nothing"),
        }.get(where, postgres.over_tcp(database))
        if where == "a table that is another's":
            postgres.query(database, "CREATE TABLE checkpoint_migrations (mine text)")
        began = time.monotonic()
        with pytest.raises(RunDirectoryError, match=sentence) as error:
            await play(parties(1), out=tmp_path / "run", checkpoints=address)
    assert str(error.value).startswith(f"{address} cannot be used: ")
    assert str(error.value).endswith(" and resume")
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("mysql://ann@host/runs", "must be an address like postgresql://user@host/database, got 'mysql://ann@host/runs'"),
        ("host=db dbname=runs", "must be an address like postgresql://user@host/database, got 'host=db dbname=runs'"),
        ("runs.sqlite", "must be an address like postgresql://user@host/database, got 'runs.sqlite'"),
        (f"postgresql://ann:{PASSWORD}@host/runs", "has a password in it: give it in PGPASSWORD, PGPASSFILE or"),
        (f"postgresql://ann@host/runs?password={PASSWORD}", "has a password in it: give it in PGPASSWORD"),
        ("postgresql://[ann@host/runs", "'postgresql://[ann@host/runs' is not an address: "),
    ],
)  # fmt: skip
async def test_a_bad_address_is_refused_before_anything_is_made(address: str, sentence: str, tmp_path: Path) -> None:
    file, out = tmp_path / "run.yaml", tmp_path / "run"
    file.write_text(
        yaml.safe_dump(
            {
                "assistant": {"model": "local:smollm2"},
                "judges": [{"name": "token_cost"}],
                "tasks": {"source": "offline"},
                "checkpoints": address,
            }
        )
    )
    with pytest.raises(ConfigError) as configured:
        load_config(file, RunConfig)
    with pytest.raises(ConfigError) as called:
        await play(parties(1), out=out, checkpoints=address)
    with pytest.raises(ConfigError) as evaluated:
        await evaluate([], {"a": Counts()}, out=out, checkpoints=address)
    for error in (configured, called, evaluated):
        assert f"checkpoints {sentence}" in str(error.value).replace("checkpoints:", "checkpoints")
        assert PASSWORD not in str(error.value)
    assert not out.exists()


async def test_an_address_that_libpq_does_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'checkpoints: .* is not an address: invalid URI query parameter: "foo"$'):
        await play(parties(1), out=tmp_path / "run", checkpoints="postgresql://ann@host/runs?foo=1")
    assert not (tmp_path / "run").exists()


async def test_a_database_without_a_run_directory_is_refused() -> None:
    with pytest.raises(ConfigError, match="checkpoints needs out, the run directory"):
        await play(parties(1), checkpoints="postgresql://ann@host/runs")


async def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "collab_agents.runs.postgres", raising=False)
    monkeypatch.delattr("collab_agents.runs.postgres", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"checkpoints needs pip install 'collab-agents\[postgres\]' \(psycopg is"):
        await play(parties(1), out=tmp_path / "run", checkpoints="postgresql://ann@host/runs")
    assert not (tmp_path / "run").exists()


async def test_an_evaluation_keeps_its_runs_in_one_database(
    postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    sets = [TaskSet("parties", list(parties(3)), LINES, COST, max_exchanges=TURNS)]
    options: dict[str, Any] = {"repeats": 2, "out": tmp_path, "checkpoints": postgres.address(database)}
    tired = await evaluate(sets, {"a": Tires(3), "b": Tires(2)}, **options)
    assert [side.failed for side in tired.sets[0].sides] == [6, 6]
    assert rows(postgres, database)["checkpoints"] == 12
    first, second = Tires(0), Tires(0)
    await evaluate(sets, {"a": first, "b": second}, **options, resume=True)
    assert (first.calls, second.calls) == (6 * 2, 6 * 3)
    assert rows(postgres, database) == dict.fromkeys(TABLES, 0)


def test_the_commands_take_the_address_from_the_file(
    serve: Callable[..., Server], postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    server, file, out = serve("--deterministic"), tmp_path / "run.yaml", tmp_path / "run"
    settings: dict[str, Any] = {
        "assistant": {"model": {"name": "openai:any", "base_url": server.url}},
        "user": {"kind": "scripted", "lines": ["one", "two"]},
        "judges": [{"name": "token_cost"}],
        "lookahead": {"candidates": 2, "futures": 1, "window": 1, "max_exchanges": 2},
        "tasks": {"source": "offline", "limit": 3},
    }
    file.write_text(yaml.safe_dump(settings | {"checkpoints": f"postgresql://ann@127.0.0.1:{closed_port()}/x"}))
    process = start("generate", "--config", file, "--out", out)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Connection refused; fix that and resume" in " ".join(error.split())
    assert len(error.splitlines()) <= 3
    file.write_text(yaml.safe_dump(settings | {"checkpoints": postgres.address(database)}))
    code, _, problem = run("generate", "--config", file, "--out", out, "--resume")
    assert (code, problem) == (0, "")
    assert len(list(read_trajectories(out))) == 3
    assert rows(postgres, database) == dict.fromkeys(TABLES, 0)
    for command in (["evaluate"], ["rejudge", out]):
        code, _, problem = run(*command, "--config", file, "--out", tmp_path / str(command[0]))
        assert (code, problem) == (0, "")
    assert rows(postgres, database) == dict.fromkeys(TABLES, 0)
