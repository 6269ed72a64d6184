"""`Lookahead.drop_faulty`: futures in which the simulated user makes a fault stay on record, outside the means."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from collab_agents import AgendaUser, Lookahead, MultiturnReward, create_lookahead_graph, create_rollout_graph
from collab_agents.errors import RolloutError
from collab_agents.judges import Conversation, Score, fact_coverage, user_faults
from collab_agents.rewards import mean
from collab_agents.tasks import Task
from collab_agents.users import closing
from tests.support.participants import SHORT, Says
from tests.support.tasks import DRAFT, party

LOOK = Lookahead(candidates=2, futures=8, window=1, max_exchanges=2, drop_faulty=True)


async def hasty(messages: Any, memory: Any, context: Any) -> Any:
    """A user that takes its leave at once in about half of the futures."""
    if not messages:
        return "Can you write an invitation?", memory
    if context.seed % 2:
        return closing("Bye."), memory
    return ("It is on Saturday 14 June." if len(messages) == 2 else "Please write it now."), memory


async def leaves(messages: Any, memory: Any, context: Any) -> Any:
    return closing("Bye."), memory


def length(conversation: Conversation, task: Task) -> float:
    return len(conversation.messages)


REWARD = MultiturnReward({"length": length})


async def look(user: Any, reward: MultiturnReward, lookahead: Lookahead, **state: Any) -> dict[str, Any]:
    begin = {"messages": [HumanMessage("Can you write an invitation?"), AIMessage("When is it?")], "task": party()}
    return await create_lookahead_graph(user, SHORT, reward, lookahead).ainvoke(begin | {"seed": 4} | state)


async def test_a_faulty_future_keeps_its_record_and_is_not_in_the_means() -> None:
    end = await look(hasty, REWARD, LOOK)
    dropped = [future for future in end["futures"] if future["dropped"]]
    assert 0 < len(dropped) < 8
    for future in dropped:
        assert future["dropped"] == ["ends_early"]
        assert (future["reward"], future["scores"]) == (3, {"length": 3, "user_faults": 0.0})
        assert "ends_early in the user's message 2: " in future["reasons"]["user_faults"]
        assert future["error"] is None
    assert {future["reward"] for future in end["futures"] if not future["dropped"]} == {4}
    assert (end["reward"], end["scores"]) == (4.0, {"length": 4.0, "user_faults": 1.0})

    kept = await look(hasty, REWARD, LOOK.model_copy(update={"drop_faulty": False}))
    assert kept["reward"] == mean(future["reward"] for future in kept["futures"])
    assert kept["reward"] < 4
    assert not any(future["dropped"] for future in kept["futures"])
    assert "user_faults" not in kept["scores"]


async def test_a_graph_that_is_watched_drops_the_same_futures() -> None:
    begin = {"messages": [HumanMessage("Can you write an invitation?"), AIMessage("When is it?")], "task": party()}
    graph: Any = create_lookahead_graph(hasty, SHORT, REWARD, LOOK)
    events = graph.astream({**begin, "seed": 4}, subgraphs=True, stream_mode="values")
    *_, watched = [state async for _, state in events]
    assert watched["futures"] == (await look(hasty, REWARD, LOOK))["futures"]


async def test_a_candidate_of_which_every_future_is_dropped_has_no_reward_and_is_not_chosen() -> None:
    end = await look(leaves, REWARD, LOOK)
    assert (end["reward"], end["scores"]) == (None, {})
    assert all(future["reward"] == 3 for future in end["futures"])
    graph = create_rollout_graph(leaves, SHORT, REWARD, LOOK)
    why = "turn 1: no candidate could be scored: dropped for faults of the simulated user: ends_early"
    with pytest.raises(RolloutError, match=f"^{why}(\n|$)"):
        await graph.ainvoke({"messages": [HumanMessage("Can you write an invitation?")], "task": party()})


async def test_the_conversation_goes_on_with_a_future_that_counts() -> None:
    graph = create_rollout_graph(hasty, SHORT, REWARD, LOOK)
    for seed in range(6):
        end = await graph.ainvoke({"messages": [], "task": party(), "seed": seed})
        assert end["messages"][2].content == "It is on Saturday 14 June."
        assert end["stopped"] == "max_turns"
        assert end["scores"]["user_faults"] == 1.0


async def test_an_agenda_user_loses_no_future() -> None:
    assistant = Says(lambda messages, context: DRAFT if context.seed % 3 == 0 else "When is it? Where is it?")
    reward = MultiturnReward({"facts": fact_coverage()})
    end = await create_rollout_graph(AgendaUser(), assistant, reward, LOOK.model_copy(update={"window": 3})).ainvoke(
        {"messages": [], "task": party(), "seed": 1}
    )
    futures = [future for turn in end["turns"] for one in turn["candidates"] for future in one["futures"]]
    assert len(futures) >= 16
    assert not any(future["dropped"] for future in futures)


async def test_the_faults_are_those_that_the_rewards_own_judge_finds() -> None:
    def strict(conversation: Conversation, task: Task) -> Score:
        assert conversation.start == 2
        ended = conversation.stopped == "user"
        return Score(float(ended), faults=() if ended else ("my_own_kind",))

    end = await look(hasty, MultiturnReward({"length": length, "user_faults": strict}, {"user_faults": 0}), LOOK)
    assert {(tuple(future["dropped"]), future["reward"]) for future in end["futures"]} == {
        ((), 3),
        (("my_own_kind",), 4),
    }
    assert end["reward"] == 3

    named = MultiturnReward({"length": length, "review": user_faults()}, {"review": 0})
    assert (await look(hasty, named, LOOK))["scores"] == {"length": 4.0, "review": 1.0}


async def test_a_future_that_cannot_be_reviewed_is_kept_with_the_reason() -> None:
    plain = Task(id="plain", goal="You want an invitation.")
    end = await look(hasty, REWARD, LOOK, task=plain)
    assert not any(future["dropped"] for future in end["futures"])
    assert end["scores"]["user_faults"] is None
    assert "give user_faults a model" in end["futures"][0]["reasons"]["user_faults"]
    assert end["reward"] == mean(future["reward"] for future in end["futures"])
