"""Runs that may spend so much and no more: they end in good order, and go on with a higher limit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.process import Server
from collab_agents import (
    AgendaUser,
    ChatAssistant,
    LLMUser,
    MultiturnReward,
    Price,
    Progress,
    SpendingLimits,
    TaskSet,
    Usage,
    evaluate,
    load_chat_model,
    play_conversations,
    read_trajectories,
)
from collab_agents.errors import LimitReached
from collab_agents.judges import fact_coverage, token_cost
from collab_agents.runs.directory import read_failures, read_totals
from tests.support.runs import SMALL, collect
from tests.support.tasks import parties

Serve = Callable[..., Server]
TASKS, CONCURRENCY = 6, 2
CALLS_A_TURN = SMALL.candidates * (1 + SMALL.futures)


def speaking(server: Server) -> ChatAssistant:
    return ChatAssistant(load_chat_model("openai:any", base_url=server.url))


async def play(server: Server, **options: Any) -> Any:
    return await collect(parties(TASKS), assistant=speaking(server), max_concurrency=CONCURRENCY, **options)


async def test_a_run_ends_once_its_calls_are_spent_and_a_higher_limit_continues_it(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve("--deterministic")
    whole = await play(server)
    before, most = server.stats()["calls"], 5 * CALLS_A_TURN
    progress = Progress()
    with pytest.raises(LimitReached) as reached:
        await play(server, out=tmp_path, limits=SpendingLimits(max_calls=most), progress=progress)
    made = server.stats()["calls"] - before
    assert str(reached.value) == (
        f"limits.max_calls is {most}, and {made} calls were made; what is finished is in {tmp_path}: raise the limit "
        "and resume"
    )
    assert most <= made < most + CONCURRENCY * CALLS_A_TURN
    assert read_failures(tmp_path) == []
    assert (progress.failed, progress.running) == (0, 0)
    assert Usage.of(read_totals(tmp_path)).calls == made
    finished = {one.task.id for one in read_trajectories(tmp_path)}
    assert 0 < len(finished) < TASKS

    with pytest.raises(LimitReached, match=f"and {made} calls were made"):
        await play(server, out=tmp_path, resume=True, limits=SpendingLimits(max_calls=most))
    assert server.stats()["calls"] - before == made, "a limit covers earlier attempts"

    rest = await play(server, out=tmp_path, resume=True, limits=SpendingLimits(max_calls=10_000))
    assert {*finished, *rest} == set(whole)
    assert {one.task.id: one for one in read_trajectories(tmp_path)} == whole
    assert server.stats()["calls"] - before == before, "no turn is played twice"


async def test_a_limit_that_is_not_reached_changes_nothing(serve: Serve) -> None:
    server = serve("--deterministic")
    limits = SpendingLimits(max_calls=10_000)
    assert await play(server, limits=limits) == await play(server)


async def test_a_run_ends_once_its_dollars_are_spent(serve: Serve) -> None:
    prices = {"openai:any": Price(input=0, output=1_000_000)}  # A dollar for each token.
    usage = (await collect(parties(1), assistant=speaking(serve()), prices=prices))["party-0"].usage
    assert usage.cost == usage.output_tokens
    server, progress = serve(), Progress()
    limits = SpendingLimits(max_cost=usage.output_tokens)
    with pytest.raises(LimitReached, match=r"limits\.max_cost is .* dollars, and .* were spent$"):
        await play(server, limits=limits, prices=prices, progress=progress)
    assert progress.usage.cost is not None
    assert limits.max_cost is not None
    assert limits.max_cost <= progress.usage.cost < 3 * limits.max_cost


async def test_a_cost_that_cannot_be_known_ends_the_run(serve: Serve) -> None:
    server = serve()
    with pytest.raises(LimitReached, match=r"limits\.max_cost cannot be kept, since the cost of \d+ calls is unknown"):
        await play(server, limits=SpendingLimits(max_cost=1))
    assert server.stats()["calls"] <= CONCURRENCY * CALLS_A_TURN


async def test_a_cost_that_an_earlier_version_did_not_record_is_unknown(serve: Serve, tmp_path: Path) -> None:
    server, prices = serve(), {"openai:any": Price(input=1, output=1)}
    with pytest.raises(LimitReached):
        await play(server, out=tmp_path, limits=SpendingLimits(max_calls=15), prices=prices)
    run = json.loads((tmp_path / "run.json").read_text())
    for name in ("priced", "dollars", "parts"):
        del run["totals"][name]
    (tmp_path / "run.json").write_text(json.dumps(run))
    made = server.stats()["calls"]
    with pytest.raises(LimitReached) as reached:
        await play(server, out=tmp_path, resume=True, limits=SpendingLimits(max_cost=9), prices=prices)
    assert str(reached.value) == (
        f"limits.max_cost cannot be kept, since the cost of {made} calls is unknown (made by an earlier version); what "
        f"is finished is in {tmp_path}: set limits.max_calls instead and resume"
    )
    assert server.stats()["calls"] == made
    assert len(await play(server, out=tmp_path, resume=True, limits=SpendingLimits(max_calls=999))) >= 1


async def test_plain_conversations_end_and_continue_in_the_same_way(serve: Serve, tmp_path: Path) -> None:
    server = serve("--deterministic")
    model = load_chat_model("openai:any", base_url=server.url)

    async def converse(**options: Any) -> dict[str, Any]:
        played = play_conversations(
            parties(TASKS),
            user=LLMUser(model),
            assistant=ChatAssistant(model),
            reward=MultiturnReward({"cost": token_cost()}),
            max_exchanges=3,
            max_concurrency=CONCURRENCY,
            **options,
        )
        return {one.task.id: one async for one in played}

    whole = await converse()
    before = server.stats()["calls"]
    with pytest.raises(LimitReached):
        await converse(out=tmp_path, limits=SpendingLimits(max_calls=15))
    assert 15 <= server.stats()["calls"] - before < 15 + CONCURRENCY * 2
    await converse(out=tmp_path, resume=True)
    assert {one.task.id: one for one in read_trajectories(tmp_path)} == whole
    assert server.stats()["calls"] - before == before


async def test_the_runs_of_an_evaluation_share_its_limit(serve: Serve, tmp_path: Path) -> None:
    server = serve("--deterministic")
    reward = MultiturnReward({"facts": fact_coverage()})
    tasks = TaskSet("parties", list(parties(TASKS)), AgendaUser(), reward, max_exchanges=2)
    sides = {"one": speaking(server), "two": speaking(server)}
    with pytest.raises(LimitReached, match=f"what is finished is in {tmp_path}: raise the limit and resume"):
        await evaluate([tasks], sides, max_concurrency=CONCURRENCY, out=tmp_path, limits=SpendingLimits(max_calls=10))
    assert 10 <= server.stats()["calls"] < 10 + CONCURRENCY
    card = await evaluate([tasks], sides, out=tmp_path, resume=True, limits=SpendingLimits(max_calls=1000))
    assert [side.finished for side in card.sets[0].sides] == [TASKS, TASKS]
    assert server.stats()["calls"] == 2 * TASKS * 2
