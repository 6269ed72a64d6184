"""Generating trajectories: concurrency, failures, leaving a run early, and resuming it."""

import asyncio
import fcntl
import gc
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from benchmarks.process import Server
from collab_agents import (
    PERSONAS,
    ChatAssistant,
    MultiturnReward,
    Progress,
    ProgressBar,
    Task,
    load_chat_model,
    read_trajectories,
)
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.judges import interactivity, token_cost
from collab_agents.runs.directory import RunDirectory, is_in_use, read_failures
from tests.support.participants import Counts
from tests.support.reading import line_in
from tests.support.runs import SMALL, collect, generate
from tests.support.tasks import parties, party

Serve = Callable[..., Server]


async def test_the_line_on_disk_is_the_documented_one(tmp_path: Path) -> None:
    yielded = await collect(parties(1), out=tmp_path, personas=[PERSONAS["shy-student"]])
    (line,) = (tmp_path / "trajectories.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert set(record) >= {"task", "persona", "messages", "stopped", "turns", "reward", "scores", "usage"}
    assert record["persona"]["name"] == "shy-student"
    assert record["messages"][0] == {"role": "user", "content": "Invitation number 0, please."}
    assert set(record["usage"]) == {
        *("calls", "input_tokens", "cached_tokens", "output_tokens", "unreported", "priced", "dollars", "parts")
    }
    turn = record["turns"][0]
    assert set(turn) == {"prompt", "chosen", "candidates", "first_futures", "components"}
    candidate = turn["candidates"][turn["chosen"]]
    assert set(candidate) >= {"messages", "reward", "scored", "standard_error", "scores", "futures"}
    assert set(candidate["futures"][0]) >= {"messages", "reward", "scores"}
    assert candidate["reward"] == pytest.approx(sum(one["reward"] for one in candidate["futures"]) / 2)
    assert list(read_trajectories(tmp_path)) == list(yielded.values())


async def test_a_turn_that_had_only_failures_when_it_was_stopped_gets_new_candidates(tmp_path: Path) -> None:
    failed = asyncio.Event()
    progress = Progress(on_change=lambda now: failed.set() if now.candidates == SMALL.candidates else None)
    fails = Counts(fail_on="number 0")
    playing = asyncio.create_task(collect(parties(1), assistant=fails, out=tmp_path, progress=progress))
    await failed.wait()
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert read_failures(tmp_path) == []
    assert list(await collect(parties(1), out=tmp_path, resume=True)) == ["party-0"]


async def test_the_same_config_gives_the_same_trajectories_at_any_concurrency(serve: Serve) -> None:
    server = serve("--deterministic", "--latency", "0.005", "--jitter", "2")
    model = load_chat_model("openai:any", base_url=server.url)
    reward = MultiturnReward({"interactivity": interactivity(model), "token_cost": token_cost()})
    runs = [
        await collect(
            parties(12),
            assistant=ChatAssistant(model),
            reward=reward,
            personas=list(PERSONAS.values()),
            seed=11,
            max_concurrency=concurrency,
        )
        for concurrency in (1, 64)
    ]
    assert len(runs[0]) == 12
    assert runs[0] == runs[1]
    assert len({one.messages[1]["content"] for one in runs[0].values()}) == 12


async def test_another_seed_gives_other_trajectories() -> None:
    one, other = [await collect(parties(2), seed=seed) for seed in (1, 2)]
    assert one["party-0"].turns != other["party-0"].turns


async def test_no_more_tasks_are_read_than_are_under_way() -> None:
    read: list[str] = []

    async def source() -> AsyncIterator[Task]:
        for task in parties(50):
            read.append(task.id)
            yield task

    progress = Progress()
    finished = 0
    async for _ in generate(source(), max_concurrency=4, progress=progress):
        finished += 1
        assert len(read) <= finished + 4 + 4, "four under way, and up to four that are done and not yet taken"
        assert progress.running <= 4
    assert (finished, progress.finished, progress.turns) == (50, 50, 100)


async def test_progress_calls_a_function_at_every_change() -> None:
    seen: list[tuple[int, int, int]] = []
    progress = Progress(on_change=lambda now: seen.append((now.running, now.turns, now.finished)))
    await collect(list(parties(3)), max_concurrency=1, progress=progress)
    one = [(1, 0, 0)] + [(1, 0, 0)] * 2 + [(1, 1, 0)] + [(1, 1, 0)] * 2 + [(1, 2, 0), (0, 2, 0), (0, 2, 1)]
    assert seen[: len(one)] == one
    assert (progress.total, progress.done, seen[-1]) == (3, 3, (0, 6, 3))


async def test_a_callback_that_fails_costs_nothing_but_itself(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress(on_change=lambda now: 1 / 0)
    assert len(await collect(parties(3), progress=progress)) == 3
    (record,) = caplog.records
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError


async def test_runs_share_a_semaphore_and_one_that_is_left_gives_its_slots_back(tmp_path: Path) -> None:
    slots = asyncio.Semaphore(2)
    for out in ("one", "two"):
        async with generate(parties(5), max_concurrency=slots, out=tmp_path / out) as trajectories:
            async for _ in trajectories:
                break
    both = await asyncio.gather(*(collect(parties(3), max_concurrency=slots) for _ in range(2)))
    assert [len(done) for done in both] == [3, 3]
    assert not slots.locked()


async def test_a_bar_shows_a_run_and_closes_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    await collect(list(parties(3)), assistant=Counts(fail_on="number 2"), progress=ProgressBar(desc="playing"))
    shown = capsys.readouterr().err
    assert "playing: 100%" in shown
    assert "3/3" in shown
    assert "0 under way, 1 failed, 4 turns" in shown
    assert shown.endswith("\n")


async def test_a_task_that_cannot_be_finished_is_kept_with_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    progress = Progress()
    shy = [PERSONAS["shy-student"]]
    fails = Counts(fail_on="number 2")
    done = await collect(parties(5), assistant=fails, personas=shy, out=tmp_path, progress=progress)
    assert sorted(done) == ["party-0", "party-1", "party-3", "party-4"]
    (failure,) = read_failures(tmp_path)
    assert (failure.task.id, failure.persona) == ("party-2", *shy)
    line = line_in(Counts.respond, 10)
    why = "; ".join(f"candidate {index}: assistant: RuntimeError: no luck ({line})" for index in (0, 1))
    assert failure.error == f"turn 1: no candidate could be scored: {why}"
    assert (progress.finished, progress.failed) == (4, 1)

    again = await collect(parties(5), personas=shy, out=tmp_path, resume=True)
    assert list(again) == ["party-2"]
    assert read_failures(tmp_path) == []
    assert len(list(read_trajectories(tmp_path))) == 5
    totals = json.loads((tmp_path / "run.json").read_text())["totals"]
    assert (totals["trajectories"], totals["failures"]) == (5, 0)


async def test_a_model_that_only_gives_garbage_fails_its_tasks_and_nothing_else(serve: Serve, tmp_path: Path) -> None:
    garbage = load_chat_model("openai:any", base_url=serve("--garbage-rate", "1").url)
    reward = MultiturnReward({"interactivity": interactivity(garbage)})
    assert await collect(parties(2), reward=reward, out=tmp_path) == {}
    reasons = {failure.error for failure in read_failures(tmp_path)}
    assert len(reasons) == 1
    assert "interactivity: no usable InteractivityRating in 4 answers" in reasons.pop()


async def test_errors_and_garbage_within_bounds_leave_no_task_unfinished(serve: Serve) -> None:
    server = serve("--error-rate", "0.05", "--garbage-rate", "0.05", "--drop-rate", "0.02")
    model = load_chat_model("openai:any", base_url=server.url)
    reward = MultiturnReward({"interactivity": interactivity(model)})
    assert len(await collect(parties(8), assistant=ChatAssistant(model), reward=reward)) == 8


async def test_closing_the_iterator_stops_all_work_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    assistant = Counts()
    async with aclosing(generate(parties(30), assistant=assistant, out=tmp_path, max_concurrency=4)) as trajectories:
        async for _ in trajectories:
            break
    calls = assistant.calls
    await asyncio.sleep(0.05)
    assert assistant.calls == calls
    assert assistant.under_way <= 4 * 4
    kept = [one.task.id for one in read_trajectories(tmp_path)]
    rest = await collect(parties(30), out=tmp_path, resume=True)
    assert sorted([*kept, *rest]) == sorted(task.id for task in parties(30))
    assert len(list(read_trajectories(tmp_path))) == 30


async def test_a_later_call_that_resumes_a_run_closes_the_iterator_of_the_earlier(tmp_path: Path) -> None:
    earlier = generate(parties(5), out=tmp_path, max_concurrency=1)
    first = await anext(earlier)
    later = await collect(parties(5), out=tmp_path, resume=True)
    assert sorted([first.task.id, *later]) == sorted(task.id for task in parties(5))
    with pytest.raises(RunDirectoryError, match="was resumed by a later call, which closed this iterator"):
        await anext(earlier)
    with pytest.raises(StopAsyncIteration):
        await anext(earlier)


async def test_one_task_at_a_time_waits_for_an_iterator() -> None:
    async with generate(parties(3)) as trajectories:
        waiting = asyncio.create_task(anext(trajectories))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task is already waiting"):
            await anext(trajectories)
        assert (await waiting).task.id.startswith("party-")


async def test_cancelling_stops_all_work() -> None:
    assistant = Counts()
    running = asyncio.create_task(collect(parties(100), assistant=assistant))
    await assistant.called.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    calls = assistant.calls
    await asyncio.sleep(0.05)
    assert assistant.calls == calls


@pytest.mark.parametrize("frozen_before", [False, True])
async def test_the_collector_is_as_it_was_whichever_run_ends_first(frozen_before: bool) -> None:
    gc.unfreeze()
    if frozen_before:
        gc.freeze()
    before = gc.get_threshold()
    async with aclosing(generate(parties(5), max_concurrency=1)) as first:
        await anext(first)
        async with aclosing(generate(parties(5), max_concurrency=1)) as second:
            await anext(second)
            await first.aclose()
            assert gc.get_threshold() != before
    assert gc.get_threshold() == before
    assert (gc.get_freeze_count() > 0) == frozen_before


async def test_a_source_that_waits_for_a_result_gets_it() -> None:
    finished = asyncio.Event()

    async def source() -> AsyncIterator[Task]:
        first, second = parties(2)
        yield first
        await finished.wait()
        yield second

    done = []
    async with asyncio.timeout(30):
        async for trajectory in generate(source()):
            done.append(trajectory.task.id)
            finished.set()
    assert done == ["party-0", "party-1"]


async def test_a_source_that_never_goes_on_can_be_left() -> None:
    async def source() -> AsyncIterator[Task]:
        yield party()
        await asyncio.Event().wait()

    async with asyncio.timeout(30):
        async with aclosing(generate(source())) as trajectories:
            await anext(trajectories)


async def test_two_tasks_with_one_id_are_refused() -> None:
    with pytest.raises(ConfigError, match="two tasks have the id 'party'"):
        await collect([party(), party()])


async def test_a_run_notes_how_many_tasks_it_has_and_how_far_its_attempt_began(tmp_path: Path) -> None:
    def noted() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((tmp_path / "run.json").read_text())
        return found

    await collect(list(parties(2)), out=tmp_path, assistant=Counts(fail_on="number 1"))
    assert noted()["tasks"] == 2
    start = datetime.now(UTC).replace(microsecond=0)
    async with aclosing(generate(list(parties(4)), out=tmp_path, max_concurrency=1, resume=True)) as trajectories:
        await anext(trajectories)
        assert noted()["tasks"] == 4
        began, finished, failed = noted()["attempt"].values()
        assert start <= datetime.fromisoformat(began) <= datetime.now(UTC)
        assert (finished, failed) == (1, 1)
        assert is_in_use(tmp_path)
    assert not is_in_use(tmp_path)
    assert noted()["tasks"] == 4
    assert "attempt" not in noted()
    await collect(parties(4), out=tmp_path, resume=True)  # How many these are is not known before they are played.
    assert "tasks" not in noted()


def test_a_run_begins_while_somebody_looks_whether_its_directory_is_in_use(tmp_path: Path) -> None:
    assert not is_in_use(tmp_path)
    with RunDirectory(tmp_path, settings={}):
        assert is_in_use(tmp_path)
    with open(tmp_path / "run.lock", "rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not is_in_use(tmp_path)
        threading.Timer(0.05, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with RunDirectory(tmp_path, settings={}, resume=True):
            assert is_in_use(tmp_path)


async def test_a_run_directory_is_used_by_one_at_a_time_and_not_overwritten(tmp_path: Path) -> None:
    async with aclosing(generate(parties(3), out=tmp_path, max_concurrency=1)) as trajectories:
        await anext(trajectories)
        with pytest.raises(RunDirectoryError, match="is in use by another run"):
            await collect(parties(3), out=tmp_path)
        with pytest.raises(Timeout):
            FileLock(tmp_path / "run.lock").acquire(timeout=0)
    with FileLock(tmp_path / "run.lock"), pytest.raises(RunDirectoryError, match="is in use by another run"):
        await collect(parties(3), out=tmp_path, resume=True)
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        await collect(parties(3), out=tmp_path)
    other = SMALL.model_copy(update={"window": 2})
    with pytest.raises(RunDirectoryError, match=r"was made with lookahead\.window = 1, and now it is 2"):
        await collect(parties(3), out=tmp_path, resume=True, lookahead=other)
    with pytest.raises(RunDirectoryError, match="cannot be used as a run directory"):
        await collect(parties(1), out=tmp_path / "run.json" / "x")
    with pytest.raises(ConfigError, match="max_concurrency must be at least 1, got 0"):
        await collect(parties(1), max_concurrency=0)
