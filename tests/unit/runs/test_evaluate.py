"""Evaluation: the numbers of the scorecard, which conversations are compared, and resuming."""

import asyncio
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage

from collab_agents import AgendaUser, MultiturnReward
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.judges import clarification, fact_coverage
from collab_agents.participants import AssistantContext
from collab_agents.runs import ProgressBar, TaskSet, evaluate
from collab_agents.runs.scorecard import Played, SetScores, score_set
from collab_agents.tasks import Task
from collab_agents.trajectories import Trajectory, read_trajectories
from collab_agents.users import Memory, ScriptedUser
from tests.support.tasks import DRAFT, party


def played(
    task_id: str,
    *,
    stopped: str = "user",
    said: Sequence[str] = ("Hi", "Ho"),
    metadata: Any = None,
    **scores: float | None,
) -> Played:
    roles = ("user", "assistant")
    one = Trajectory(
        task=Task(id=task_id, goal="p", metadata=metadata or {}),
        messages=[{"role": roles[index % 2], "content": text} for index, text in enumerate(said)],
        stopped=stopped,
        turns=[],
        reward=1.0,
        scores=dict(scores),
    )
    return Played.of(one)


def scored(sides: dict[str, list[list[Played]]], metric: str | None = "good", seeds: Sequence[int] = (0,)) -> SetScores:
    return score_set("set", sides, {}, seeds=seeds, metric=metric)


def test_a_measure_is_the_mean_over_tasks_with_its_bootstrap_interval() -> None:
    chance = random.Random(0)
    values = [chance.gauss(0.5, 0.1) for _ in range(200)]
    result = scored({"a": [[played(str(i), good=value) for i, value in enumerate(values)]]})
    estimate = result.sides[0].measures["good"]
    assert estimate.value == pytest.approx(statistics.mean(values))
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    assert estimate.low == pytest.approx(statistics.mean(values) - half, abs=0.002)
    assert estimate.high == pytest.approx(statistics.mean(values) + half, abs=0.002)
    assert (estimate.tasks, estimate.per_seed) == (200, [estimate.value])
    assert scored({"a": [[played(str(i), good=value) for i, value in enumerate(values)]]}) == result


def test_the_difference_is_paired_and_much_narrower_than_the_sides() -> None:
    chance = random.Random(1)
    hard = [chance.random() for _ in range(100)]
    a = [played(str(i), good=value + 0.1 + chance.gauss(0, 0.01)) for i, value in enumerate(hard)]
    b = [played(str(i), good=value) for i, value in enumerate(hard)]
    result = scored({"a": [a], "b": [b[::-1]]})
    assert result.difference is not None
    difference, side = result.difference["good"], result.sides[0].measures["good"]
    assert difference.value == pytest.approx(0.1, abs=0.005)
    assert None not in (difference.low, difference.high, side.low, side.high)
    assert difference.high - difference.low < 0.1 * (side.high - side.low)  # type: ignore[operator]
    assert difference.improvement == pytest.approx(difference.value / statistics.mean(hard))  # type: ignore[operator]


def test_what_is_missing_on_one_side_is_left_out_of_the_difference() -> None:
    a = [played("1", good=1.0), played("2", good=0.0), played("3", good=None)]
    b = [played("1", good=0.5), played("3", good=0.0), played("4", good=0.0)]
    result = scored({"a": [a], "b": [b]})
    assert result.tasks == 4
    assert [side.measures["good"].tasks for side in result.sides] == [2, 3]
    assert result.sides[0].measures["good"].value == 0.5
    assert result.difference is not None
    assert (result.difference["good"].value, result.difference["good"].tasks) == (0.5, 1)


def test_measures_without_a_value_are_none_and_not_zero() -> None:
    result = scored({"a": [[played("1", good=None)]]})
    estimate = result.sides[0].measures["good"]
    assert (estimate.value, estimate.low, estimate.high, estimate.tasks) == (None, None, None, 0)


def test_fewer_tokens_are_an_improvement_and_asking_is_neither() -> None:
    def side(tokens: float, asked: float) -> list[list[Played]]:
        return [[played(str(i), assistant_tokens=tokens, asks_first=asked, token_cost=-tokens / 1e4) for i in range(3)]]

    result = scored({"a": side(1500, 1.0), "b": side(2000, 0.5)}, metric=None)
    assert result.difference is not None
    assert result.sides[0].measures["assistant_ktokens"].value == 1.5
    assert result.difference["assistant_ktokens"].improvement == pytest.approx(0.25)
    assert result.difference["asks_first"].value == 0.5
    assert result.difference["asks_first"].improvement is None
    assert result.difference["token_cost"].improvement is None, "a share of a negative number says nothing"


def test_exchanges_and_endings_are_read_off_the_conversation() -> None:
    talks = [
        played("1", said=("Hi", "Ho")),
        played("2", said=("Hi", "Ho", "More", "Here", "Bye")),
        played("3", said=("Hi", "Ho", "More", "Here"), stopped="max_turns"),
    ]
    measures = scored({"a": [talks]}).sides[0].measures
    assert measures["exchanges"].value == pytest.approx(5 / 3)
    assert measures["ended_by_user"].value == pytest.approx(2 / 3)


def test_repeats_of_a_task_stay_together_and_keep_their_own_values() -> None:
    repeats = [[played(str(i), good=float(i % 2 == seed % 2)) for i in range(10)] for seed in range(2)]
    estimate = scored({"a": repeats}, seeds=(0, 1)).sides[0].measures["good"]
    assert estimate.per_seed == [0.5, 0.5]
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.5, 0.5), "every task's mean is 0.5"


def test_conversations_are_paired_by_task_and_seed() -> None:
    """Each side lost another seed of a task: what is left of it on one side only says nothing."""
    a = [[played("1", good=0.0), played("2", good=0.5)], [played("2", good=0.5)]]
    b = [[played("2", good=0.5)], [played("1", good=1.0), played("2", good=0.5)]]
    result = scored({"a": a, "b": b}, seeds=(0, 1))
    assert result.difference is not None
    difference = result.difference["good"]
    assert (difference.value, difference.tasks, difference.per_seed) == (0.0, 1, [0.0, 0.0])


def test_what_a_judge_did_not_score_is_counted_with_its_reason() -> None:
    def unscored(task_id: str, reason: str) -> Played:
        return replace(played(task_id, good=None), reasons={"good": reason})

    talks = [
        unscored("1", "no reference"),
        unscored("2", "no reference"),
        unscored("3", "other"),
        played("4", good=1.0),
    ]
    (side,) = scored({"a": [talks]}).sides
    assert (side.unscored["good"].count, side.unscored["good"].reason) == (3, "no reference")
    assert (side.measures["good"].value, side.measures["good"].tasks) == (1.0, 1)


async def test_a_task_that_has_changed_is_not_taken_for_the_one_that_was_played(tmp_path: Path) -> None:
    await evaluate([facts(parties(2))], {"a": Says(DRAFT)}, out=tmp_path)
    other = parties(1)[0].model_copy(update={"goal": "Something else."})
    with pytest.raises(RunDirectoryError, match="the task 'party-0' has changed since the run"):
        await evaluate([facts([other])], {"a": Says(DRAFT)}, out=tmp_path, resume=True)


async def test_a_run_that_cannot_be_gone_on_with_is_found_before_anything_is_played(tmp_path: Path) -> None:
    settings = {"a": {"model": "x"}, "b": {"model": "y"}}
    await evaluate([facts(parties(2))], {"b": Says(DRAFT)}, out=tmp_path, settings=settings)
    first, second = Says(DRAFT), Says(DRAFT)
    with pytest.raises(RunDirectoryError, match=r"was made with assistant\.model = 'y', and now it is 'z'"):
        await evaluate(
            [facts(parties(2))],
            {"a": first, "b": second},
            out=tmp_path,
            resume=True,
            settings=settings | {"b": {"model": "z"}},
        )
    assert first.calls == second.calls == 0


def test_clarification_becomes_macro_accuracy_and_f1() -> None:
    """2 of 4 ambiguous questions asked about, 5 of 6 clear ones answered: by hand from the confusion matrix."""
    right = [1, 1, 0, 0, 1, 1, 1, 1, 1, 0]
    talks = [played(str(i), good=float(value), metadata={"ambiguous": i < 4}) for i, value in enumerate(right)]
    card = score_set("set", {"a": [talks]}, {}, seeds=[0], metric="good", clarifies=True)
    measures = card.sides[0].measures
    assert measures["macro_accuracy"].value == pytest.approx((2 / 4 + 5 / 6) / 2)
    assert measures["f1_ambiguous"].value == pytest.approx(2 * 2 / (2 * 2 + 2 + 1))
    assert measures["f1_clear"].value == pytest.approx(2 * 5 / (2 * 5 + 1 + 2))


class Says:
    """An assistant that always says the same, and counts."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.calls = 0

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        self.calls += 1
        return [AIMessage(self.text)], memory


def parties(count: int = 4) -> list[Task]:
    return [party(f"party-{index}") for index in range(count)]


def facts(tasks: Sequence[Task]) -> TaskSet:
    return TaskSet(
        "parties", tasks, AgendaUser(), MultiturnReward({"facts": fact_coverage()}), "facts", max_exchanges=2
    )


async def test_two_assistants_play_the_same_tasks_and_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = Says(DRAFT), Says("I do not know.")
    progress = ProgressBar()
    card = await evaluate(
        [facts(parties())], {"good": good, "bad": bad}, repeats=2, seed=5, out=tmp_path, progress=progress
    )
    (result,) = card.sets
    assert [side.name for side in result.sides] == ["good", "bad"]
    assert [side.finished for side in result.sides] == [8, 8]
    assert progress.finished == 16
    bar = capsys.readouterr().err
    assert "16/16" in bar
    assert bar.count("\n") == 1
    assert (good.calls, bad.calls) == (8, 16)
    assert result.difference is not None
    assert result.difference["facts"].value == 1.0
    assert result.difference["exchanges"].value == -1.0
    assert set(result.better) == {
        "facts", "asks_first", "assistant_ktokens", "user_tokens", "reward", "exchanges", "ended_by_user",
    }  # fmt: skip
    for number in range(2):
        runs = [tmp_path / "parties" / side / f"seed-{number}" for side in ("good", "bad")]
        first, second = ({one.task.id: one for one in read_trajectories(run)} for run in runs)
        assert {key: one.seed for key, one in first.items()} == {key: one.seed for key, one in second.items()}
        assert {one.turns == [] for one in first.values()} == {True}
        assert first["party-0"].messages[0] == second["party-0"].messages[0]
        assert first["party-0"].reasons["facts"] == "every fact is there"
    assert len(set(result.seeds)) == 2


async def test_an_evaluation_goes_on_where_it_stopped(tmp_path: Path) -> None:
    await evaluate([facts(parties(2))], {"a": Says(DRAFT)}, out=tmp_path)
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        await evaluate([facts(parties(2))], {"a": Says(DRAFT)}, out=tmp_path)
    again = Says(DRAFT)
    card = await evaluate([facts(parties(5))], {"a": again}, out=tmp_path, resume=True)
    assert again.calls == 3
    assert card.sets[0].sides[0].finished == 5


async def test_without_a_folder_the_scorecard_is_the_same(tmp_path: Path) -> None:
    sides = {"a": Says(DRAFT), "b": Says("Who?")}
    assert await evaluate([facts(parties())], sides) == await evaluate([facts(parties())], sides, out=tmp_path)


async def test_what_cannot_be_finished_is_counted_and_in_no_mean() -> None:
    class Moody(Says):
        async def respond(
            self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
        ) -> tuple[list[BaseMessage], Memory]:
            if context.seed % 2:
                raise RuntimeError("no luck")
            return await super().respond(messages, memory, context)

    (result,) = (await evaluate([facts(parties(20))], {"a": Moody(DRAFT)})).sets
    side = result.sides[0]
    assert side.failed > 0
    assert side.failed + side.finished == 20
    assert side.measures["facts"].value == 1.0


async def test_questions_on_stories_are_played_in_one_exchange() -> None:
    tasks = [
        Task(id=str(i), goal=f"Story {i}. My question is: where?", metadata={"ambiguous": bool(i % 2)})
        for i in range(6)
    ]
    stories = TaskSet(
        "abg", tasks, ScriptedUser(["{goal}"]), MultiturnReward({"c": clarification()}), "c", max_exchanges=1
    )
    (result,) = (await evaluate([stories], {"asks": Says("Who do you mean?"), "answers": Says("At home.")})).sets
    asks, answers = (side.measures for side in result.sides)
    assert asks["macro_accuracy"].value == answers["macro_accuracy"].value == 0.5
    assert asks["f1_ambiguous"].value == pytest.approx(2 / 3)
    assert answers["f1_ambiguous"].value == 0.0
    assert asks["asks_first"].value == 1.0


async def test_a_wrong_evaluation_is_refused() -> None:
    for sets, assistants, problem in (
        ([facts([])], {"a": Says("")}, "parties has no tasks"),
        ([facts(parties()), facts(parties())], {"a": Says("")}, "two task sets are named 'parties'"),
        ([facts(parties())], {}, "assistants must be one, or two to compare, got 0"),
        ([facts([party("a"), party("a")])], {"a": Says("")}, "parties: two tasks have the id 'a'"),
        ([facts([Task(id="b", goal="p")])], {"a": Says("")}, "task 'b' has no metadata.agenda"),
        ([facts(parties())], {"gpt 4": Says(""), "gpt-4": Says("")}, "two assistants are named 'gpt 4', or nearly"),
        ([replace(facts(parties()), name="..")], {"a": Says("")}, "cannot be a name: it needs a letter or a digit"),
        (
            [replace(facts(parties()), reward=MultiturnReward({"exchanges": fact_coverage()}))],
            {"a": Says("")},
            "a judge cannot be named 'exchanges' here",
        ),
    ):
        with pytest.raises(ConfigError, match=problem):
            await evaluate(sets, assistants)
    with pytest.raises(ConfigError, match="repeats must be at least 1, got 0"):
        await evaluate([facts(parties())], {"a": Says("")}, repeats=0)


async def test_sets_and_repeats_are_played_side_by_side_within_the_limit() -> None:
    class Slow:
        under_way = most = 0

        async def respond(
            self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
        ) -> tuple[list[BaseMessage], Memory]:
            Slow.under_way += 1
            Slow.most = max(Slow.most, Slow.under_way)
            await asyncio.sleep(0.05)
            Slow.under_way -= 1
            return [AIMessage("Done.")], memory

    reward = MultiturnReward({"coverage": fact_coverage()})
    sets = [TaskSet(name, [party()], ScriptedUser(["a", "b"]), reward) for name in ("one", "two", "three")]
    card = await evaluate(sets, {"slow": Slow()}, repeats=2, max_concurrency=4)
    assert [one.name for one in card.sets] == ["one", "two", "three"]
    assert all(len(one.seeds) == 2 for one in card.sets)
    assert Slow.most == 4
