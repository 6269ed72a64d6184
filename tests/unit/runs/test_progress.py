"""What `Progress` tells of a run under way: tasks, errors by kind, and the table that is drawn of it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pytest
from langchain_core.messages import BaseMessage
from rich.console import Console

from benchmarks.process import Server
from collab_agents import (
    PERSONAS,
    ChatAssistant,
    LLMUser,
    MultiturnReward,
    Progress,
    ScriptedUser,
    Task,
    load_chat_model,
)
from collab_agents.judges import as_judge, interactivity, token_cost
from collab_agents.participants import AssistantContext
from collab_agents.runs import Standing, TaskProgress, play_conversations
from collab_agents.runs.table import RunTable
from tests.support.participants import Counts, Says
from tests.support.reading import line_in
from tests.support.runs import collect
from tests.support.tasks import parties

Serve = Callable[..., Server]


async def test_tasks_under_way_tell_how_they_stand() -> None:
    seen: list[tuple[str, str | None, Standing]] = []

    def note(progress: Progress) -> None:
        seen.extend((one.task, one.persona, one.now) for one in progress.under_way)

    progress = Progress(on_change=note)
    personas = [PERSONAS["shy-student"]]
    done = await collect(parties(1), personas=personas, progress=progress)
    first, second = done["party-0"].turns
    assert {(task, persona) for task, persona, _ in seen} == {("party-0", "shy-student")}
    at = list(dict.fromkeys((now.turn, now.candidates) for _, _, now in seen))
    assert at == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    rewards = list(dict.fromkeys(now.reward for _, _, now in seen))
    assert rewards == [None, first.candidates[first.chosen].reward, second.candidates[second.chosen].reward]
    (opening,) = {(now.speaker, now.words) for _, _, now in seen if now.turn == 1 and now.candidates}
    assert opening == ("user", "Invitation number 0, please.")
    last = seen[-1][2]
    assert (last.speaker, last.words) == ("assistant", done["party-0"].messages[-1]["content"])
    assert not progress.under_way


async def test_a_task_that_goes_on_stands_where_it_was_left(tmp_path: object) -> None:
    stood: list[Standing] = []
    left = asyncio.Event()
    first = Progress(on_change=lambda now: left.set() if now.turns == 1 else None)
    playing = asyncio.create_task(collect(parties(1), out=tmp_path, progress=first))
    await left.wait()
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert not first.under_way
    second = Progress(on_change=lambda now: stood.extend(one.now for one in now.under_way))
    await collect(parties(1), out=tmp_path, resume=True, progress=second)
    begun = next(now for now in stood if now.words)
    assert (begun.turn, begun.speaker) == (2, "user")
    assert begun.reward is not None


async def test_failures_are_counted_by_kind_whatever_their_turn_and_candidate() -> None:
    progress = Progress()
    await collect(parties(5), assistant=Counts(fail_on="number 2"), progress=progress)
    why = f"assistant: RuntimeError: no luck ({line_in(Counts.respond, 10)})"
    assert progress.errors == {
        f"candidate failed: {why}": 2,
        f"task failed: no candidate could be scored: {why}; {why}"[: len("task failed: ") + 160]: 1,
    }


async def test_calls_that_are_tried_again_and_unusable_answers_are_counted(serve: Serve) -> None:
    server = serve("--error-rate", "0.1", "--garbage-rate", "0.1")
    model = load_chat_model("openai:any", base_url=server.url)
    progress = Progress()
    reward = MultiturnReward({"interactivity": interactivity(model), "token_cost": token_cost()})
    pieces = {"user": LLMUser(model), "assistant": ChatAssistant(model), "reward": reward}
    await collect(parties(6), progress=progress, **pieces)
    stats = server.stats()
    assert progress.failed == 0
    assert stats["errors"] > 0
    assert progress.errors["call tried again: HTTP 503"] == stats["errors"]
    unusable = sum(count for kind, count in progress.errors.items() if kind.startswith("unusable answer"))
    assert 0 < unusable <= stats["garbage"], "the assistant's answers may be any words"


async def test_judges_that_give_no_score_are_counted() -> None:
    progress = Progress()
    silent = as_judge(lambda conversation, task: None)
    reward = MultiturnReward({"silent": silent, "token_cost": token_cost()}, {"silent": 0.0})
    await collect(parties(1), reward=reward, progress=progress)
    ((kind, count),) = progress.errors.items()
    assert kind.startswith("no score by silent: ")
    assert count == 2 * 2 * 2 + 1, "each future of two turns with two candidates, and the conversation"


async def test_kinds_of_errors_have_a_bound() -> None:
    progress = Progress()

    def fail(messages: Sequence[BaseMessage], context: AssistantContext) -> str:
        raise ValueError(f"not another {context.seed}")

    played = play_conversations(
        [Task(id=f"t{number}", goal="Write.") for number in range(150)],
        user=ScriptedUser(["Hello."]),
        assistant=Says(fail),
        reward=MultiturnReward({"token_cost": token_cost()}),
        progress=progress,
    )
    assert [one async for one in played] == []
    assert len(progress.errors) == 101
    assert progress.errors["other errors"] == 50


def lines_of(table: RunTable, width: int = 100, height: int = 20) -> list[str]:
    page = Console(width=width)
    with page.capture() as captured:
        page.print(table.draw(width, height))
    return captured.get().splitlines()


def shown_tasks(table: RunTable, height: int) -> Sequence[str]:
    return [line.split()[0] for line in lines_of(table, height=height) if line.startswith("task-")]


def test_a_row_keeps_its_place_until_its_task_ends() -> None:
    progress = Progress(total=9)
    table = RunTable(progress)
    playing = {name: ExitStack() for name in "abcdef"}

    def begin(names: str) -> None:
        for name in names:
            playing[name].enter_context(progress.playing(TaskProgress(f"task-{name}", max_turns=3)))

    begin("abcde")
    height = 3 + 2 + 2
    assert shown_tasks(table, height) == ["task-a", "task-b", "task-c"]
    assert "and 2 more under way" in lines_of(table, height=height)
    begin("f")
    playing["b"].close()
    assert shown_tasks(table, height) == ["task-a", "task-d", "task-c"]
    playing["a"].close()
    playing["c"].close()
    assert shown_tasks(table, height) == ["task-e", "task-d", "task-f"]
    playing["d"].close()
    assert shown_tasks(table, height) == ["task-e", "task-f"]
    for one in "ef":
        playing[one].close()
    assert lines_of(table)[0].startswith("0 of 9 tasks")


def test_the_time_left_is_told_once_as_many_tasks_have_ended_as_are_under_way() -> None:
    progress = Progress(total=100)
    table = RunTable(progress)
    progress.add(running=8, finished=7)
    assert table.time_left() == ""
    progress.add(failed=1)
    assert table.time_left() == "less than a minute left"
    table._started -= 600
    assert table.time_left() == "about 1 h 55 min left"
    progress.add(running=-8, finished=92)
    assert table.time_left() == ""
    unknown = Progress()
    unknown.add(finished=50)
    assert RunTable(unknown).time_left() == ""


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (10, 8), (20, 4), (40, 6), (60, 8), (80, 24), (300, 100)])
def test_the_table_fits_into_any_terminal(size: tuple[int, int]) -> None:
    width, height = size
    progress = Progress(total=20_000)
    progress.errors.update({f"future failed: {n} {'漢字' * 90}": n for n in range(9)})
    with ExitStack() as playing:
        for number in range(64):
            now = Standing(2, 1, "assistant", "漢字 and \u202e\u200b more " * 20, -0.25)
            task = TaskProgress(f"任务-{number}-{'y' * (number % 40)}", "a-persona" * 9, 5, 3, "side " * 9, now=now)
            playing.enter_context(progress.playing(task))
        lines = lines_of(RunTable(progress), width, height)
    assert len(lines) <= height
    assert all(Console().measure(line).maximum <= width for line in lines)
    assert "\u202e" not in "".join(lines)
