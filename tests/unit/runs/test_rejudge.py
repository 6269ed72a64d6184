"""Judging stored trajectories again: what stays, what is new, and where the choice would have differed."""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.process import Server
from collab_agents import (
    PERSONAS,
    AgendaUser,
    Lookahead,
    MultiturnReward,
    Progress,
    load_chat_model,
    play_conversations,
)
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.judges import Conversation, Judge, as_judge, fact_coverage, interactivity, token_cost, user_faults
from collab_agents.rewards import best_of, mean
from collab_agents.runs import ChangedChoice, changed_choices, rejudge
from collab_agents.runs.directory import read_failures
from collab_agents.tasks import Task
from collab_agents.trajectories import Candidate, Future, Trajectory, Turn, read_trajectories
from tests.support.participants import Counts, Says
from tests.support.runs import collect
from tests.support.tasks import DRAFT, parties
from tests.support.trajectories import said, trajectory

LOOK = Lookahead(candidates=3, futures=2, window=2, max_exchanges=3)


async def again(trajectories: Sequence[Trajectory], reward: MultiturnReward, **options: Any) -> dict[str, Trajectory]:
    return {one.task.id: one async for one in rejudge(trajectories, reward=reward, **options)}


def length(conversation: Conversation, task: Task) -> float:
    return sum(len(str(message.content)) for message in conversation.messages)


def played(one: Trajectory) -> object:
    """What of a trajectory no judge has a say in."""
    keep = {"messages", "proactive"}
    turns = [
        (
            turn.prompt,
            turn.chosen,
            [(c.model_dump(include=keep), [f.messages for f in c.futures]) for c in turn.candidates],
        )
        for turn in one.turns
    ]
    return one.task, one.persona, one.seed, one.messages, one.stopped, turns


async def test_the_same_judges_give_the_same_scores_with_the_seeds_of_play(serve: Callable[..., Server]) -> None:
    server = serve("--deterministic")
    model = load_chat_model("openai:any", base_url=server.url)
    judges: dict[str, Judge] = {"facts": fact_coverage(), "int": interactivity(model, samples=2)}
    reward = MultiturnReward(judges, {"int": 0.5})
    assistant = Says(lambda messages, context: DRAFT if context.seed % 3 == 0 else f"When is it? {context.seed}")
    once = await collect(
        parties(4), reward=reward, assistant=assistant, lookahead=LOOK, personas=list(PERSONAS.values())
    )
    calls = server.stats()["calls"]
    twice = await again(list(once.values()), reward)
    assert server.stats()["calls"] == 2 * calls
    for task, one in twice.items():
        assert one == once[task]
        assert one.usage.calls > 0
        assert not list(changed_choices(one))


async def test_other_judges_score_what_was_played_and_say_which_reply_they_would_have_chosen() -> None:
    assistant = Says(lambda messages, context: "x" * (context.seed % 90))
    once = await collect(parties(6), assistant=assistant, lookahead=LOOK)
    twice = await again(list(once.values()), MultiturnReward({"long": length}))
    choices = [choice for one in twice.values() for choice in changed_choices(one)]
    assert choices
    for task, one in twice.items():
        assert played(one) == played(once[task])
        assert one.scores == {"long": sum(len(message["content"]) for message in one.messages)} == {"long": one.reward}
        assert one.usage.calls == 0
        for number, turn in enumerate(one.turns, 1):
            rewards = [mean(future.reward for future in candidate.futures) for candidate in turn.candidates]
            assert [candidate.reward for candidate in turn.candidates] == rewards
            best = max(range(3), key=lambda index: rewards[index] or 0)
            here = [choice for choice in choices if (choice.task, choice.turn) == (task, number)]
            gain = (rewards[best] or 0) - (rewards[turn.chosen] or 0)
            expected = ChangedChoice(task, number, turn.chosen, best, gain)
            assert here == ([expected] if best != turn.chosen else [])


async def test_scores_that_are_kept_cost_no_call_and_get_the_new_weights(serve: Callable[..., Server]) -> None:
    server = serve("--deterministic")
    model = load_chat_model("openai:any", base_url=server.url)
    judges: dict[str, Judge] = {"int": interactivity(model), "cost": token_cost()}
    once = await collect(parties(3), reward=MultiturnReward(judges), lookahead=LOOK)
    calls = server.stats()["calls"]
    reward = MultiturnReward({**judges, "long": as_judge(length)}, {"int": 2, "cost": -1, "long": 0})
    twice = await again(list(once.values()), reward, keep=["int", "cost"])
    assert server.stats()["calls"] == calls
    for task, one in twice.items():
        for new, old in zip(all_futures(one), all_futures(once[task]), strict=True):
            assert {name: new.scores[name] for name in judges} == old.scores
            assert new.reward == pytest.approx(2 * (old.scores["int"] or 0) - (old.scores["cost"] or 0))
            assert new.reasons["int"] == old.reasons["int"]
            assert new.scores["long"]

    unscored = [one.model_copy(update={"scores": {"int": None, "cost": -1.0}, "turns": []}) for one in once.values()]
    later = await again(unscored, MultiturnReward(judges), keep=["int", "cost"])
    assert server.stats()["calls"] == calls + 3
    assert all(one.scores["int"] is not None and one.scores["cost"] == -1.0 for one in later.values())


def all_futures(one: Trajectory) -> list[Future]:
    return [future for turn in one.turns for candidate in turn.candidates for future in candidate.futures]


async def test_a_conversation_without_lookahead_is_judged_as_a_whole() -> None:
    reward = MultiturnReward({"facts": fact_coverage()})
    stream = play_conversations(parties(3), user=AgendaUser(), assistant=Says(lambda *_: DRAFT), reward=reward)
    once = [one async for one in stream]
    twice = await again(once, MultiturnReward({"faults": user_faults(), "facts": fact_coverage()}))
    for one in once:
        assert twice[one.task.id].scores == {"faults": 1.0, "facts": 1.0}
        assert twice[one.task.id].turns == []
        assert played(twice[one.task.id]) == played(one)


async def test_what_failed_in_play_stays_failed_and_what_was_not_scored_is_judged() -> None:
    one = trajectory("a", 0.1, 0.2)
    opening = [said("user", "do a")]
    failed = Future(error="future 0: assistant: TimeoutError: too slow")
    unscored = Future(messages=[said("user", "hm"), said("assistant", "ab")], scores={"old": None}, error="not scored")
    candidates = [
        Candidate(messages=[said("assistant", "one")], futures=[failed, unscored], error="old: no"),
        Candidate(messages=[], error="candidate 1: it broke"),
        Candidate(messages=[said("assistant", "two")], reward=0.9, scores={"old": 0.9}),
    ]
    one = one.model_copy(update={"turns": [Turn(prompt=opening, chosen=2, candidates=candidates)]})
    (new,) = (await again([one], MultiturnReward({"long": length}))).values()
    first, broken, without = new.turns[0].candidates
    assert first.futures[0] == failed
    assert (first.futures[1].reward, first.futures[1].error) == (11, None)
    assert (first.reward, first.scores, first.error) == (11, {"long": 11}, None)
    assert broken == candidates[1]
    assert (without.reward, without.scores, without.error) == (None, {}, "it has no futures to judge")
    assert list(changed_choices(new)) == [ChangedChoice("a", 1, 2, 0, None)]


async def test_tool_messages_and_internal_ones_are_judged_as_they_were_said() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"order": "7"}'}}
    tools = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "it is paid", "tool_call_id": "c1", "name": "look_up"},
        {"role": "user", "content": "Is that friendly?", "internal": True},
        said("assistant", "It is paid."),
    ]
    one = trajectory("a", 0.1)
    candidate = Candidate(messages=tools, futures=[Future(messages=[said("user", "Thanks."), *tools])])
    one = one.model_copy(update={"turns": [Turn(prompt=[said("user", "Well?")], chosen=0, candidates=[candidate])]})
    heard: list[Conversation] = []

    def listen(conversation: Conversation, task: Task) -> float:
        heard.append(conversation)
        return 1.0

    (new,) = (await again([one], MultiturnReward({"listen": listen}))).values()
    assert played(new) == played(one)
    (future,) = (conversation for conversation in heard if conversation.start)
    assert future.start == 5
    turn = ["human", "ai", "tool", "human", "ai"]
    assert [message.type for message in future.messages] == [*turn, *turn]
    assert future.assistant_texts() == ["It is paid.", "It is paid."]


async def test_faulty_futures_are_dropped_as_they_would_have_been_in_play() -> None:
    async def hasty(messages: Any, memory: Any, context: Any) -> Any:
        if not messages:
            return "Can you write an invitation?", memory
        return (None if context.seed % 2 else "It is on Saturday 14 June."), memory

    look = Lookahead(candidates=2, futures=6, window=1, max_exchanges=1)
    options: dict[str, Any] = {"user": hasty, "reward": MultiturnReward({"long": length})}
    plain = await collect(parties(3), lookahead=look, **options)
    dropping = await collect(parties(3), lookahead=look.model_copy(update={"drop_faulty": True}), **options)
    twice = await again(list(plain.values()), MultiturnReward({"long": length}), drop_faulty=True)
    for task, one in twice.items():
        assert one.turns[0].candidates == dropping[task].turns[0].candidates
        assert any(future.dropped for future in all_futures(one))
        assert not any(future.dropped for future in all_futures(plain[task]))
    back = await again(list(dropping.values()), MultiturnReward({"long": length}))
    for task, one in back.items():
        assert [c.reward for c in one.turns[0].candidates] == [c.reward for c in plain[task].turns[0].candidates]


async def test_a_run_that_was_left_is_resumed_and_judges_nothing_twice(tmp_path: Path) -> None:
    once = list((await collect(parties(12), lookahead=LOOK)).values())
    asked: list[str] = []

    async def counting(conversation: Conversation, task: Task) -> float:
        await asyncio.sleep(0.001)
        asked.append(task.id)
        return conversation.seed % 100

    reward = MultiturnReward({"counting": as_judge(counting)})
    async with aclosing(rejudge(once, reward=reward, max_concurrency=2, out=tmp_path / "y")) as trajectories:
        async for _ in trajectories:
            break
    kept = [one.task.id for one in read_trajectories(tmp_path / "y")]
    assert 1 <= len(kept) < 12
    asked.clear()
    progress = Progress()
    rest = await again(once, reward, max_concurrency=2, out=tmp_path / "y", resume=True, progress=progress)
    assert sorted([*kept, *rest]) == sorted(one.task.id for one in once)
    assert not set(kept) & set(asked)
    assert (progress.finished, progress.skipped, progress.failed) == (12 - len(kept), len(kept), 0)
    found = {one.task.id: one for one in read_trajectories(tmp_path / "y")}
    assert found == await again(once, reward)
    run = json.loads((tmp_path / "y" / "run.json").read_text())
    changed = sum(1 for one in found.values() for _ in changed_choices(one))
    assert run["choices"] == {"turns": sum(len(one.turns) for one in once), "changed": changed}
    assert run["totals"]["trajectories"] == 12
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        await again(once, reward, out=tmp_path / "y")
    with pytest.raises(RunDirectoryError, match=r"was made with lookahead\.drop_faulty = False, and now it is True"):
        await again(once, reward, out=tmp_path / "y", resume=True, drop_faulty=True)


async def test_what_cannot_be_scored_is_kept_as_a_failure_and_tried_again(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    once = list((await collect(parties(3), lookahead=LOOK)).values())
    plain = trajectory("plain").model_copy(update={"turns": []})
    garbage = load_chat_model("openai:any", base_url=serve("--garbage-rate", "1").url)
    progress = Progress()
    reward = MultiturnReward({"int": interactivity(garbage)})
    assert await again([*once, plain], reward, out=tmp_path, progress=progress) == {}
    assert progress.failed == 4
    reasons = {failure.task.id: failure.error for failure in read_failures(tmp_path)}
    assert reasons["party-0"].startswith(
        "turn 1: no candidate could be scored: int: no usable InteractivityRating in 4"
    )
    assert reasons["plain"].startswith("the conversation could not be scored: int: no usable InteractivityRating in 4")
    model = load_chat_model("openai:any", base_url=serve().url)
    reward = MultiturnReward({"int": interactivity(model)})
    assert len(await again([*once, plain], reward, out=tmp_path, resume=True)) == 4
    assert read_failures(tmp_path) == []


async def test_no_more_trajectories_are_in_progress_than_allowed() -> None:
    once = list((await collect(parties(6), assistant=Counts())).values())
    under_way: set[str] = set()
    most = 0

    async def slow(conversation: Conversation, task: Task) -> float:
        nonlocal most
        under_way.add(task.id)
        most = max(most, len(under_way))
        await asyncio.sleep(0.01)
        under_way.discard(task.id)
        return 1.0

    assert len(await again(once, MultiturnReward({"slow": as_judge(slow)}), max_concurrency=2)) == 6
    assert most == 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_concurrency": 0}, "max_concurrency must be at least 1, got 0"),
        ({"keep": ["bleu"]}, "keep: 'bleu' is not one of the judges long"),
        (
            {"reward": MultiturnReward({"r": user_faults()}), "keep": ["r"]},
            "keep: 'r' reviews the simulated user, whose faults are not stored: leave it out",
        ),
    ],
)
async def test_bad_input_is_refused_in_a_sentence(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}$"):
        rejudge([], **({"reward": MultiturnReward({"long": length})} | options))


async def test_two_trajectories_of_one_task_are_refused() -> None:
    with pytest.raises(ConfigError, match="two trajectories have the task id 'a': ids must differ"):
        await again([trajectory("a", 1.0), trajectory("a", 1.0)], MultiturnReward({"long": length}))


def test_equal_rewards_choose_the_first() -> None:
    choices = list(changed_choices(trajectory("a", 0.25, 0.5, 0.5)))
    assert choices == [ChangedChoice("a", turn, 0, 1, 0.25) for turn in (1, 2)]
    assert not list(changed_choices(trajectory("a", None, None)))


def test_a_mean_of_few_futures_is_believed_less_in_turns_with_further_futures() -> None:
    rewards = [[0.4, 2.0], [0.5, 1.9, 1.1, 1.1, 1.2, 1.1, 1.1, 1.1], [-0.5, 0.8]]
    candidates = [Candidate(reward=mean(each), futures=[Future(reward=one) for one in each]) for each in rewards]
    one = trajectory("a", 0.1)
    one.turns = [Turn(prompt=[said("user", "Hi")], chosen=1, candidates=candidates, first_futures=2)]
    assert best_of([each.reward for each in candidates]) == 0
    assert list(changed_choices(one)) == []
    one.turns[0].first_futures = None
    assert [change.best for change in changed_choices(one)] == [0]
