"""The table of a run's trajectories: it says what the trajectories say, follows a run, and survives its index."""

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.process import ROOT
from collab_agents import Parts, Persona, read_trajectories
from collab_agents.errors import RunDirectoryError
from collab_agents.runs import compact
from collab_agents.runs.directory import RunDirectory
from collab_agents.tasks import Task
from collab_agents.trajectories import Failure, Future, Trajectory
from collab_agents.usage import Counts, Usage
from collab_agents.variance import reliability
from collab_agents.view.table import FAILED, Row, RunTable, Wanted
from tests.support.damage import bent, garble, truncate
from tests.support.runs import collect
from tests.support.tasks import parties
from tests.support.trajectories import said, trajectory

ANN, BEN = Persona(name="ann", background="You are Ann."), Persona(name="ben", background="You are Ben.")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "collab-agents" / "view"


def whole(run: str | Path) -> RunTable:
    table = RunTable(run)
    while not table.refresh():
        pass
    return table


def write(out: str | Path | Parts, trajectories: list[Trajectory]) -> None:
    with RunDirectory(out, settings={}, resume=True) as run:
        for one in trajectories:
            run.finish(one)


def ids(table: RunTable, **wanted: Any) -> list[str]:
    return [row.task_id for row in table.rows(Wanted(**wanted), limit=1000)]


def numbered(*numbers: int) -> list[Trajectory]:
    return [trajectory(f"task {number}", 0.5, 0.25, final=number / 100, brief=float(-number)) for number in numbers]


def failed(name: str, error: str, persona: Persona | None = None) -> Failure:
    return Failure(task=Task(id=name, kind="trip", goal=f"You want {name}."), persona=persona, error=error)


async def test_rows_say_what_the_trajectories_of_a_run_say(tmp_path: Path) -> None:
    await collect(parties(7), out=tmp_path / "run", personas=[ANN, BEN])
    made = list(read_trajectories(tmp_path / "run"))
    table = whole(tmp_path / "run")
    assert table.count == table.matching() == 7
    assert table.judges == ["fact_coverage", "token_cost"]
    assert table.personas == sorted({one.persona.name for one in made if one.persona})
    assert table.kinds == ["invitation"]
    assert table.read_bytes == table.total_bytes == (tmp_path / "run" / "trajectories.jsonl").stat().st_size
    for number, (row, one) in enumerate(zip(table.rows(), made, strict=True), 1):
        spreads = [[one.reward for one in turn.candidates if one.reward is not None] for turn in one.turns]
        assert row == Row(
            number=number,
            task_id=one.task.id,
            kind="invitation",
            persona=one.persona.name if one.persona else None,
            reward=one.reward,
            exchanges=len(one.turns),
            calls=one.usage.calls,
            tokens=one.usage.input_tokens + one.usage.output_tokens,
            dollars=one.usage.cost,
            stopped=one.stopped,
            spread=max(max(rewards) - min(rewards) for rewards in spreads),
            faults=0,
            goal=one.task.goal,
            scores=one.scores,
        )
        assert table.trajectory(number) == one
        assert table.number_of(one.task.id) == number
    assert table.usage == sum_of(made)
    assert table.turns == sum(len(one.turns) for one in made)
    assert table.reliability() == table.tally.result() == reliability(made)


def sum_of(trajectories: list[Trajectory]) -> Usage:
    total = Usage()
    for one in trajectories:
        total.add(one.usage)
    return total


def test_rows_are_filtered_by_everything_at_once(tmp_path: Path) -> None:
    first, second, third, fourth = numbered(1, 2, 3, 4)
    first = first.model_copy(update={"persona": ANN, "stopped": "max_turns"})
    first.turns[0].candidates[1].futures = [Future(reward=0.1, dropped=["forgets"]), Future(reward=0.2)]
    second = second.model_copy(update={"persona": BEN, "task": second.task.model_copy(update={"kind": "trip"})})
    third = third.model_copy(update={"reward": None})
    fourth = fourth.model_copy(update={"persona": ANN})
    write(tmp_path, [first, second, third, fourth])
    table = whole(tmp_path)
    assert ids(table, persona="ann") == ["task 1", "task 4"]
    assert ids(table, persona="ann", stopped="user") == ["task 4"]
    assert ids(table, kind="trip") == ["task 2"]
    assert ids(table, faulty=True) == ["task 1"]
    assert table.rows()[0].faults == 2
    assert ids(table, unscored=True) == ["task 3"]
    assert ids(table, least=0.02) == ["task 2", "task 4"]
    assert ids(table, score="brief", least=-3, most=-2) == ["task 2", "task 3"]
    assert ids(table, score="calls", most=0, text="4") == ["task 4"]
    assert ids(table, persona="nobody") == ids(table, text="\0") == ids(table, score="unknown", least=0) == []


def test_text_is_found_in_ids_goals_and_the_main_conversation_only(tmp_path: Path) -> None:
    one, two, three = numbered(1, 2, 3)
    two.messages.append(said("assistant", 'Das ist GROSSE Straße, 100% "sicher" o\'clock _x'))
    two.turns[0].candidates[0].futures = [Future(reward=0.1, messages=[said("user", "in a future")])]
    three.messages.append({"role": "user", "content": [{"type": "text", "text": "In a block"}, {"type": "image"}]})
    three.messages.append({"role": "assistant", "content": None, "tool_calls": []})
    write(tmp_path, [one, two, three])
    table = whole(tmp_path)
    assert ids(table, text="TASK 1") == ["task 1"]
    assert ids(table, text="you want task") == ["task 1", "task 2", "task 3"]
    for text in ("grosse", "STRASSE", "100%", '"sicher"', "O'CLOCK", "_X", "0% "):
        assert ids(table, text=text) == ["task 2"], text
    assert ids(table, text="a block") == ["task 3"]
    assert ids(table, text="in a future") == ids(table, text="' OR 1=1 --") == ids(table, text="t_sk") == []


def test_failed_tasks_come_after_all_trajectories_with_their_reasons(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, settings={}) as run:
        run.fail(failed("lost", "judge bleu: No Reference", ANN))
        run.finish(trajectory("unscored", 0.5, final=None))
        run.finish(trajectory("done", 0.5, final=0.25, brief=1.0))
        run.fail(failed("late", "HTTP 503", BEN))
        run.fail(failed("last", "HTTP 503"))
    table = whole(tmp_path)
    assert (table.count, table.failed, table.matching()) == (2, 3, 5)
    assert ids(table) == ["unscored", "done", "lost", "late", "last"]
    for score in ("reward", "brief", "exchanges", "spread"):
        for descending in (False, True):
            assert set(ids(table, sort=score, descending=descending)[2:]) == {"lost", "late", "last"}
    assert ids(table, sort="task_id") == ["done", "last", "late", "lost", "unscored"]
    assert ids(table, stopped="failed", sort="task_id", descending=True) == ["lost", "late", "last"]
    assert ids(table, text="no reference") == ids(table, persona="ann") == ["lost"]
    assert ids(table, text="503", persona="ben") == ["late"]
    assert ids(table, kind="trip", text="want l") == ["lost", "late", "last"]
    assert ids(table, least=-9) == ["done"]
    (lost, *_), (late,) = table.rows(Wanted(stopped="failed")), table.rows(offset=3, limit=1)
    nothing = dict.fromkeys(["reward", "exchanges", "calls", "tokens", "dollars", "spread", "faults"])
    assert lost._asdict() | nothing == lost._asdict()
    assert (lost.number, lost.persona, lost.goal) == (FAILED, "ann", "You want lost.")
    assert (lost.stopped, lost.reason, lost.scores) == ("failed", "judge bleu: No Reference", {"brief": None})
    assert table.row(late.number) == late
    assert table.beside(late.number) == (lost.number, late.number + 1)
    assert table.failure(late.number) == failed("late", "HTTP 503", BEN)
    assert table.reasons() == [("HTTP 503", ["late", "last"]), ("judge bleu: No Reference", ["lost"])]
    assert table.number_of("late") is None
    assert (table.personas, table.kinds) == (["ann", "ben"], ["note", "trip"])
    assert table.histogram("exchanges") == [(2, 2, 2)]
    for number in (1, 3, FAILED - 1, FAILED + 3):
        with pytest.raises(LookupError):
            table.failure(number)


def test_failures_are_followed_while_they_come_and_go(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, settings={}) as run, RunTable(tmp_path) as table:
        run.fail(failed("a", "first"))
        assert table.refresh()
        run.fail(failed("b", "second"))
        assert table.refresh()
        (a, b), version = table.rows(), table.version
        assert table.refresh()
        assert table.version == version
        run.fail(failed("a", "once more"))
        assert table.refresh()
        assert table.rows() == [a._replace(reason="once more"), b]
        assert table.failure(a.number).error == "once more"
        run.finish(trajectory("a", 0.5))
        assert table.refresh()
        assert [(row.number, row.task_id) for row in table.rows()] == [(1, "a"), (b.number, "b")]
        with pytest.raises(LookupError):
            table.failure(a.number)
    with RunDirectory(tmp_path, settings={}, resume=True) as run, RunTable(tmp_path) as table:
        assert ids(table) == ["a", "b"]  # It need not be refreshed.
        run.finish(trajectory("b", 0.5))
        with pytest.raises(RunDirectoryError, match="has changed"):
            table.failure(b.number)
        assert table.refresh()
        assert ids(table, text="want") == ["a", "b"]
        assert (table.count, table.failed) == (2, 0)


def test_a_task_that_is_finished_has_no_row_for_an_earlier_failure(tmp_path: Path) -> None:
    """A kill between both leaves it in both files."""
    lines = [failed(name, "no").model_dump_json() for name in ("task 1", "task 2", "task 1")]
    (tmp_path / "failures.jsonl").write_text("\n".join([lines[0], "{broken", *lines[1:], '{"torn']))
    (tmp_path / "trajectories.jsonl").touch()
    (tmp_path / "run.json").write_text("{}")
    table = whole(tmp_path)
    assert ids(table) == ["task 1", "task 2"]
    assert [problem.partition(": ")[0] for problem in table.problems] == [f"{tmp_path / 'failures.jsonl'}:2"]
    (tmp_path / "trajectories.jsonl").write_text(numbered(1)[0].model_dump_json() + "\n")
    assert table.refresh()
    assert [row.number for row in table.rows()] == [1, FAILED + 1]


NUMBERS = st.none() | st.sampled_from([0.0, 0.5, -1.0, 3.25])


@given(
    scores=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30),
    sort=st.sampled_from(["number", "reward", "brief", "unknown"]),
    descending=st.booleans(),
    least=NUMBERS,
    offset=st.integers(-1, 31),
    limit=st.integers(-1, 31),
)
def test_pages_are_those_of_a_list_that_is_filtered_and_sorted(
    scores: list[Any], sort: str, descending: bool, least: float | None, offset: int, limit: int, tmp_path_factory: Any
) -> None:
    file = tmp_path_factory.mktemp("run") / "trajectories.jsonl"
    made = [
        trajectory(f"task {number}", final=reward).model_copy(update={"scores": {"brief": brief}})
        for number, (reward, brief) in enumerate(scores, 1)
    ]
    file.write_text("".join(one.model_dump_json() + "\n" for one in made))
    wanted = Wanted(sort=sort, descending=descending, score="brief", least=least)
    expected: list[tuple[int, Any]] = [
        (number, {"number": number, "reward": reward, "brief": brief}.get(sort))
        for number, (reward, brief) in enumerate(scores, 1)
        if least is None or (brief is not None and brief >= least)
    ]
    known = [one for one in expected if one[1] is not None]
    known.sort(key=lambda one: -one[1] if descending else one[1])
    order = [number for number, _ in [*known, *(one for one in expected if one[1] is None)]]
    with whole(file) as table:
        rows = table.rows(wanted, offset, limit)
        assert [row.number for row in rows] == order[max(0, offset) :][: max(0, limit)]
        assert table.matching(wanted) == len(order)
        for at, number in enumerate(order):
            assert table.beside(number, wanted) == (order[at - 1] if at else None, (*order, None)[at + 1])
        for other in {0, *range(1, len(scores) + 2)} - set(order):
            assert table.beside(other, wanted) == (None, None)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
async def test_trajectories_in_parts_are_read_one_by_one(form: Any, tmp_path: Path) -> None:
    await collect(parties(9), out=Parts(tmp_path / "run", format=form, megabytes=0.01))
    made = list(read_trajectories(tmp_path / "run"))
    table = whole(tmp_path / "run")
    assert [table.trajectory(number) for number in range(1, 10)] == made
    assert ids(table) == [one.task.id for one in made]
    assert table.read_bytes == table.total_bytes
    for number in (0, -1, 10, 2**70):
        with pytest.raises(LookupError, match=f"9 trajectories, and none has the number {number}"):
            table.trajectory(number)


async def test_a_run_at_an_address_and_a_single_file_are_tables_too(memory: Any, tmp_path: Path) -> None:
    for form in ("jsonl", "parquet"):
        run = f"memory://bucket/{form}"
        await collect(parties(3), out=Parts(run, format=form))
        (name,) = memory.find(f"/bucket/{form}/trajectories")
        (tmp_path / Path(name).name).write_bytes(memory.cat(name))
        for place in (run, tmp_path / Path(name).name):
            made = list(read_trajectories(place))
            with whole(place) as table:
                assert [table.trajectory(number) for number in range(1, 4)] == made


def test_what_is_appended_is_read_at_the_next_refresh(tmp_path: Path) -> None:
    run = Parts(tmp_path / "run", format="parquet", megabytes=0.003)
    with RunDirectory(run, settings={}) as directory:
        table = whole(tmp_path / "run")
        assert table.count == 0
        for number in range(12):  # Parts are converted meanwhile.
            directory.finish(*numbered(number))
            while not table.refresh():
                pass
            assert table.trajectory(number + 1) == numbered(number)[0]
            assert table.rows(Wanted(sort="reward", descending=True), limit=1)[0].task_id == f"task {number}"
    assert {file.suffix for file in (tmp_path / "run" / "trajectories").iterdir()} == {".parquet"}
    assert [table.trajectory(number + 1) for number in range(12)] == numbered(*range(12))
    assert table.refresh()
    assert table.read_bytes == table.total_bytes
    assert table.count == 12


def test_judges_become_columns_as_they_appear(tmp_path: Path) -> None:
    write(tmp_path, [trajectory("a", 0.5, good=1.0)])
    table = whole(tmp_path)
    assert ids(table, sort="late; DROP TABLE rows") == ["a"]
    write(tmp_path, [trajectory("b", 0.5, **{"late; DROP TABLE rows": 2.0, "good": 3.0})])
    assert table.refresh()
    assert table.judges == ["good", "late; DROP TABLE rows"]
    assert [row.scores for row in table.rows()] == [
        {"good": 1.0, "late; DROP TABLE rows": None},
        {"good": 3.0, "late; DROP TABLE rows": 2.0},
    ]
    assert ids(table, sort="late; DROP TABLE rows") == ["b", "a"]
    assert ids(table, score="late; DROP TABLE rows", most=2) == ["b"]


def test_numbers_that_are_none_count_as_missing(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    line = trajectory("x", 0.5, 0.1, final=0.25, brief=1.0).model_dump_json()
    lines = [line, *(line.replace("0.25", value) for value in ("NaN", "Infinity", "null", "1e999"))]
    lines.append(line.replace('"calls":0', f'"calls":{10**30}'))
    file.write_text("".join(one + "\n" for one in lines))
    table = whole(file)
    assert table.problems == []
    assert [row.reward for row in table.rows()] == [0.25, None, None, None, None, 0.25]
    assert table.rows(Wanted(sort="calls", descending=True))[0].number == 6
    assert table.histogram("reward") == [(0.25, 0.25, 2)]
    assert ids(table, unscored=True) == ["x"] * 4
    assert table.number_of("x") == 1


def test_ids_may_have_any_characters(tmp_path: Path) -> None:
    names = ["'; DROP TABLE rows; --", "a\0b", "100%_", "סבבה ‮ right", "🦔", "../../etc", "line\nbreak", '"', " "]
    write(tmp_path, [trajectory(name, 0.5) for name in names])
    table = whole(tmp_path)
    assert ids(table) == names
    for number, name in enumerate(names, 1):
        assert table.number_of(name) == number
        assert table.trajectory(number).task.id == name
        assert name in ids(table, text=name)
    assert table.number_of("\ud800") is table.number_of("nobody") is None
    assert ids(table, text="\ud800", persona="\ud800") == []


def test_a_damaged_line_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    file = tmp_path / "trajectories.jsonl"
    first, second, third = (one.model_dump_json() for one in numbered(1, 2, 3))
    file.write_text(
        f"{first}\n{{broken\n{second}\n[]\n\n{third.replace('max_turns', '?').replace('user', '!')}\n{third}\n"
    )
    with whole(tmp_path) as table:
        assert ids(table) == ["task 1", "task 2", "task 3"]
        assert [table.trajectory(number).task.id for number in (1, 2, 3)] == ids(table)
        where = [problem.partition(": ")[0] for problem in table.problems]
        assert where == [f"{file}:{number}" for number in (2, 4, 5, 6)]
    with RunTable(tmp_path) as table:
        assert len(table.problems) == 4
        assert table.refresh()
        assert len(table.problems) == 4


def test_a_damaged_parquet_file_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    write(Parts(tmp_path / "run", format="parquet", megabytes=0.001), numbered(1, 2, 3))
    damaged = tmp_path / "run" / "trajectories" / "part-00001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:100])
    table = whole(tmp_path / "run")
    assert ids(table) == ["task 1", "task 3"]
    assert [str(damaged) in problem for problem in table.problems] == [True]


def test_a_line_that_is_being_written_is_read_once_it_is_whole(tmp_path: Path) -> None:
    write(tmp_path, numbered(1))
    file = tmp_path / "trajectories.jsonl"
    line = numbered(2)[0].model_dump_json().encode() + b"\n"
    with open(file, "ab", buffering=0) as run:
        run.write(line[:100])
        table = whole(tmp_path)
        assert ids(table) == ["task 1"]
        run.write(line[100:-1])
        assert table.refresh()
        assert table.count == 1
        run.write(line[-1:])
    assert table.refresh()
    assert ids(table) == ["task 1", "task 2"]
    assert table.problems == []


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_long_run_is_read_piece_by_piece_and_can_be_seen_meanwhile(form: Any, tmp_path: Path) -> None:
    write(tmp_path / "run", numbered(*range(30)))
    compact([tmp_path / "run"], tmp_path / "parts", format=form, megabytes=0.02)
    table = RunTable(tmp_path / "parts")
    seen = [0]
    shares = [0.0]
    while not table.refresh(seconds=0):
        assert table.count == len(ids(table)) == seen[-1] + 1
        seen.append(table.count)
        shares.append(table.read_bytes / table.total_bytes)
    assert seen == list(range(31))
    assert shares == sorted(shares)
    assert 0 < shares[1] < shares[15] < 1 == table.read_bytes / table.total_bytes
    assert ids(table) == [f"task {number}" for number in range(30)]
    assert sum(count for *_, count in table.histogram("brief", 7)) == 30


def test_an_index_is_kept_for_the_next_time_for_its_owner_alone(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "run", numbered(1, 2))
    with whole(tmp_path / "run") as table:
        before = table.rows(), table.usage, table.turns, table.reliability(), table.personas, table.kinds
    for place in (cache, *cache.iterdir()):
        assert stat.S_IMODE(place.stat().st_mode) & 0o077 == 0
    with RunTable(tmp_path / "run") as table:  # It need not be refreshed.
        assert (table.rows(), table.usage, table.turns, table.reliability(), table.personas, table.kinds) == before
        assert table.trajectory(2) == numbered(2)[0]
        write(tmp_path / "run", numbered(3))
        assert table.refresh()
        assert ids(table) == ["task 1", "task 2", "task 3"]
    assert len(list(cache.glob("*.sqlite"))) == 1


def test_an_index_that_nobody_opened_for_a_month_is_deleted(tmp_path: Path, cache: Path) -> None:
    for name in ("old", "new"):
        write(tmp_path / name, numbered(1))
    whole(tmp_path / "old").close()
    (index,) = cache.glob("*.sqlite")
    month = 31 * 86400
    os.utime(index, (time.time() - month, time.time() - month))
    whole(tmp_path / "new").close()
    assert [file.name[:4] for file in cache.glob("*.sqlite")] == ["new-"]


def test_another_run_in_the_place_is_read_from_its_beginning(tmp_path: Path) -> None:
    write(tmp_path / "run", numbered(1, 2, 3))
    write(tmp_path / "other", numbered(7, 8))
    with whole(tmp_path / "run") as table:
        (tmp_path / "other" / "trajectories.jsonl").replace(tmp_path / "run" / "trajectories.jsonl")
        with pytest.raises(RunDirectoryError, match=r"run"):
            table.trajectory(3)
        assert table.refresh()
        assert ids(table) == ["task 7", "task 8"]
        assert table.usage == Usage()
        (tmp_path / "run" / "trajectories.jsonl").write_bytes(b"")
        assert table.refresh()
        assert ids(table) == []
        (tmp_path / "run" / "trajectories.jsonl").unlink()
        (tmp_path / "run" / "run.json").unlink()
        with pytest.raises(RunDirectoryError, match="is it a run directory"):
            table.refresh()


def test_what_is_not_a_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is it a run directory"):
        RunTable(tmp_path)
    with pytest.raises(RunDirectoryError, match="is it a run directory"):
        RunTable(tmp_path / "nothing")


def foreign(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.executescript("CREATE TABLE rows (x); PRAGMA user_version=99;")


@pytest.mark.parametrize("damage", [Path.unlink, truncate, garble, foreign, bent])
def test_an_index_that_is_missing_or_damaged_is_made_again(
    damage: Callable[[Path], None], tmp_path: Path, cache: Path
) -> None:
    write(tmp_path / "run", numbered(*range(40)))
    with whole(tmp_path / "run") as table:
        before = table.rows(), table.tally.result()
    for _ in range(2):
        (index,) = cache.glob("*.sqlite")
        damage(index)
        with whole(tmp_path / "run") as table:
            assert (table.rows(), table.tally.result()) == before
        with RunTable(tmp_path / "run") as table:
            assert table.rows() == before[0]


def test_an_index_that_is_damaged_while_it_is_used_is_made_again(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "run", numbered(*range(200)))
    whole(tmp_path / "run").close()
    (index,) = cache.glob("*.sqlite")
    size = index.stat().st_size
    with RunTable(tmp_path / "run") as table:
        with open(index, "r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))
        with pytest.raises(RunDirectoryError, match=r"cannot be used .* the run is read again"):
            ids(table, text="task 150")
        while not table.refresh():
            pass
        assert table.count == len(ids(table)) == 200
    with whole(tmp_path / "run") as table:
        assert table.count == 200


def test_two_viewers_of_a_run_do_not_disturb_each_other(tmp_path: Path) -> None:
    write(tmp_path, numbered(1, 2))
    with whole(tmp_path) as one, whole(tmp_path) as two:
        write(tmp_path, numbered(3))
        assert two.refresh()
        assert one.refresh()
        assert one.rows() == two.rows()
        assert one.count == 3
    with RunTable(tmp_path) as again:
        assert again.count == 3


def test_a_table_that_was_closed_leaves_the_index_alone(tmp_path: Path) -> None:
    write(tmp_path, numbered(1))
    table = whole(tmp_path)
    table.close()
    for ask in (table.rows, table.refresh, table.close):
        with suppress(sqlite3.ProgrammingError):
            ask()
    with RunTable(tmp_path) as again:
        assert again.count == 1


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write(tmp_path / "run", numbered(1, 2))
    with whole(tmp_path / "run") as table:
        assert ids(table) == ["task 1", "task 2"]
        assert table.trajectory(2) == numbered(2)[0]


def test_a_cache_that_is_full_is_done_without(tmp_path: Path) -> None:
    talkative = numbered(*range(200))
    for one in talkative:
        one.messages.append(said("user", f"{one.task.id} " * 5000))
    write(tmp_path / "run", talkative)
    (tmp_path / "cache").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "none", str(tmp_path / "cache")], check=True)
    try:
        with whole(tmp_path / "run") as table:
            assert ids(table) == [one.task.id for one in talkative]
            assert table.turns == 400
            assert ids(table, text="task 7 task 7") == ["task 7"]
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "cache")], check=True)


ENDLESS = """
import sys
from collab_agents.view.table import RunTable
table = RunTable(sys.argv[1])
while True:
    table.refresh(0.01)
    print(table.count, flush=True)
"""


def test_a_viewer_that_is_killed_leaves_an_index_that_is_right(tmp_path: Path) -> None:
    write(tmp_path / "run", numbered(*range(300)))
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path / "run")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    for line in process.stdout:
        if int(line) > 100:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with whole(tmp_path / "run") as table:
        assert ids(table) == [f"task {number}" for number in range(300)]
        assert table.turns == 600


def test_tables_are_asked_from_many_threads_while_they_are_read(tmp_path: Path) -> None:
    write(tmp_path / "run", numbered(*range(300)))
    table = RunTable(tmp_path / "run")
    stop, failed = threading.Event(), []

    def ask(number: int) -> None:
        try:
            while not stop.is_set():
                rows = table.rows(Wanted(text=f"want task {number}", sort="brief"), limit=1000)
                assert all(row.task_id.startswith(f"task {number}") for row in rows)
                assert table.number_of("task 299") in (None, 300)
                table.reliability()
                if rows:
                    assert table.trajectory(rows[-1].number).task.id == rows[-1].task_id
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while not table.refresh(0.01):
        pass
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert table.count == 300


def test_two_runs_are_compared_on_the_tasks_that_both_have(tmp_path: Path) -> None:
    write(tmp_path / "one", numbered(1, 2, 3, 4))
    moved = [one.model_copy(update={"reward": one.reward and one.reward * 3}) for one in numbered(4, 3, 2, 9)]
    write(tmp_path / "two", [*moved, trajectory("task 1", 0.5, final=None)])
    one, two = whole(tmp_path / "one"), whole(tmp_path / "two")
    assert [pair[:5] for pair in one.pairs(two)] == [
        ("task 4", 4, 1, 0.04, 0.12),
        ("task 3", 3, 2, 0.03, 0.09),
        ("task 2", 2, 3, 0.02, 0.06),
    ]
    assert [round(pair.difference, 6) for pair in one.pairs(two)] == [-0.08, -0.06, -0.04]
    assert [pair.task_id for pair in two.pairs(one, offset=1, limit=1)] == ["task 3"]
    assert one.paired(two) == 3
    assert [pair.difference for pair in one.pairs(two, "brief")] == [0, 0, 0]
    assert one.pairs(two, "unknown") == one.pairs(two, "task_id") == []
    write(tmp_path / "two", [trajectory("task 1 again", 0.5), *numbered(10)])
    write(tmp_path / "one", numbered(10))
    assert one.refresh()
    assert two.refresh()
    assert one.paired(two) == 4


def test_costs_are_known_if_all_prices_are(tmp_path: Path) -> None:
    known, unknown = numbered(1, 2)
    known.usage.count("assistant", "a", Counts(calls=2, input_tokens=5, output_tokens=3, priced=2, dollars=0.5))
    unknown.usage.count("assistant", "a", Counts(calls=2, priced=1, dollars=0.5))
    write(tmp_path, [known, unknown])
    table = whole(tmp_path)
    assert [(row.calls, row.tokens, row.dollars) for row in table.rows()] == [(2, 8, 0.5), (2, 0, None)]
    assert ids(table, sort="dollars", descending=True) == ["task 1", "task 2"]
    assert json.dumps(table.usage.parts["assistant"]["a"].calls) == "4"
