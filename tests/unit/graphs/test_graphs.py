"""The conversation, lookahead and rollout graphs: when they end, what they choose, and that branches stay apart."""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import ValidationError

from benchmarks.process import Server
from collab_agents import (
    AgendaUser,
    ChatAssistant,
    Lookahead,
    MultiturnReward,
    ScriptedUser,
    Task,
    create_conversation_graph,
    create_lookahead_agent,
    create_lookahead_graph,
    create_rollout_graph,
    load_chat_model,
)
from collab_agents.errors import RolloutError
from collab_agents.judges import Conversation, as_judge, fact_coverage, token_cost
from collab_agents.participants import AssistantContext
from collab_agents.users import Memory, closing
from tests.support.participants import SHORT, Says
from tests.support.reading import line_in, texts
from tests.support.tasks import DRAFT, party

COST = MultiturnReward({"token_cost": token_cost()})


async def test_a_conversation_goes_on_until_the_exchanges_run_out() -> None:
    graph = create_conversation_graph(ScriptedUser(["one", "two", "three"]), SHORT, max_exchanges=2)
    end = await graph.ainvoke({"messages": [], "task": party()})
    assert texts(end["messages"]) == ["one", "reply 1", "two", "reply 3"]
    assert (end["stopped"], end["exchanges"]) == ("max_turns", 2)


async def test_a_conversation_goes_on_until_the_user_is_done() -> None:
    graph = create_conversation_graph(ScriptedUser(["one"]), SHORT)
    end = await graph.ainvoke({"messages": [], "task": party()})
    assert texts(end["messages"]) == ["one", "reply 1"]
    assert end["stopped"] == "user"


async def test_last_words_of_the_user_are_kept() -> None:
    graph = create_conversation_graph(AgendaUser(), Says(lambda messages, context: DRAFT))
    end = await graph.ainvoke({"messages": [], "task": party().model_dump()})
    assert [message.type for message in end["messages"]] == ["human", "ai", "human"]
    assert end["stopped"] == "user"


async def test_a_conversation_that_ends_with_the_user_is_answered_first() -> None:
    graph = create_conversation_graph(ScriptedUser([]), SHORT)
    end = await graph.ainvoke({"messages": [("user", "Hello")], "task": party()})
    assert texts(end["messages"]) == ["Hello", "reply 1"]


async def test_a_participant_that_fails_is_named() -> None:
    def fail(messages: Any, memory: Any) -> str:
        raise KeyError("lost")

    graph = create_conversation_graph(ScriptedUser(["one"]), Says(fail))
    with pytest.raises(RolloutError, match="assistant: KeyError: 'lost'"):
        await graph.ainvoke({"messages": [], "task": party()})
    with pytest.raises(RolloutError, match="simulated_user: ValueError: the graph's input has no task"):
        await create_conversation_graph(AgendaUser(), SHORT).ainvoke({"messages": []})


async def test_equal_messages_stay_two_messages() -> None:
    same = AIMessage("again", id="the-same")

    class Repeats:
        async def respond(
            self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
        ) -> tuple[list[BaseMessage], Memory]:
            return [same], memory

    end = await create_conversation_graph(ScriptedUser(["a", "b"]), Repeats()).ainvoke(
        {"messages": [], "task": party()}
    )
    assert texts(end["messages"]) == ["a", "again", "b", "again"]


async def test_the_lookahead_reward_is_the_mean_over_its_futures() -> None:
    async def judge(conversation: Conversation, task: Task) -> float:
        return len(str(conversation.messages[-1].content))

    chatty = Says(lambda messages, context: "x" * (context.seed % 50))
    graph = create_lookahead_graph(
        ScriptedUser(["a", "b", "c", "d"]),
        chatty,
        MultiturnReward({"length": as_judge(judge)}),
        Lookahead(futures=5, window=2),
    )
    begin = {"messages": [HumanMessage("a"), AIMessage("candidate")], "task": party(), "seed": 3}
    end = await graph.ainvoke(begin)
    rewards = [future["reward"] for future in end["futures"]]
    assert len(rewards) == 5
    assert len(set(rewards)) > 1, "futures have seeds of their own"
    assert end["reward"] == pytest.approx(sum(rewards) / 5)
    assert end["scores"] == {"length": end["reward"]}
    assert [[message["role"] for message in future["messages"]] for future in end["futures"]] == [
        ["user", "assistant", "user", "assistant"]
    ] * 5
    assert texts(end["messages"]) == ["a", "candidate"], "futures do not enter the conversation"
    assert (await graph.ainvoke(begin))["futures"] == end["futures"]


async def test_what_a_graph_put_out_can_be_put_in_again() -> None:
    graph = create_lookahead_graph(ScriptedUser(["a", "b"]), SHORT, COST, Lookahead(futures=2, window=1))
    begin = {"messages": [HumanMessage("a"), AIMessage("x" * 400)], "task": party()}
    end = await graph.ainvoke(begin)
    again = await graph.ainvoke({**end, "messages": [HumanMessage("a"), AIMessage("")]})
    assert len(again["futures"]) == 2
    assert again["reward"] > end["reward"] + 0.04

    talk = create_conversation_graph(ScriptedUser(["a", "b", "c", "d"]), SHORT, max_exchanges=2)
    longer = await talk.ainvoke(await talk.ainvoke({"messages": [], "task": party()}))
    assert len(longer["messages"]) == 8
    play = create_rollout_graph(ScriptedUser(["a", "b", "c", "d"]), SHORT, COST, Lookahead(window=0, max_exchanges=2))
    twice = await play.ainvoke(await play.ainvoke({"messages": [], "task": party()}))
    assert (len(twice["messages"]), len(twice["turns"])) == (8, 2)


@pytest.mark.parametrize("lines", [["a", "b", "c", "d"], ["a", "b"]])
async def test_a_graph_that_continues_goes_on_from_the_state_after_any_turn(lines: list[str]) -> None:
    user, shape = ScriptedUser(lines), Lookahead(candidates=2, futures=2, window=1, max_exchanges=3)
    for graph in (
        create_conversation_graph(user, SHORT, max_exchanges=3, reward=COST, continues=True),
        create_rollout_graph(user, SHORT, COST, shape, continues=True),
    ):
        begin = {"messages": [], "task": party(), "seed": 5}
        states = [state async for state in graph.astream(begin, stream_mode="values")]
        between = [state for state in states if not state.get("candidates") and "reward" not in state]
        assert len(between) >= 3
        for state in between:
            assert await graph.ainvoke(state) == states[-1]


@pytest.mark.parametrize("number", [{"candidates": 0}, {"futures": 0}, {"window": -1}, {"max_exchanges": 0}])
def test_numbers_out_of_range_are_refused(number: dict[str, Any]) -> None:
    (name,) = number
    with pytest.raises(ValidationError, match=f"{name}\n  Input should be greater than"):
        Lookahead(**number)


async def test_a_participant_that_changes_messages_changes_its_own_copy() -> None:
    class Shouts:
        async def respond(
            self, messages: list[BaseMessage], memory: Memory, context: AssistantContext
        ) -> tuple[list[BaseMessage], Memory]:
            messages[-1].content = f"{messages[-1].content}!"
            messages.append(AIMessage("scribble"))
            return [AIMessage(f"r{messages[-2].content}")], memory

    graph = create_rollout_graph(ScriptedUser(["go"]), Shouts(), COST, Lookahead(window=0, max_exchanges=1))  # type: ignore[arg-type]
    end = await graph.ainvoke({"messages": [], "task": party()})
    assert end["turns"][0]["prompt"] == [{"role": "user", "content": "go"}]
    assert {one["messages"][0]["content"] for one in end["turns"][0]["candidates"]} == {"rgo!"}


@pytest.mark.parametrize(("candidates", "ratio", "proactive"), [(3, 0.34, 1), (3, 0.1, 1), (5, 0.5, 3), (3, 0.0, 0)])
async def test_the_proactive_share_is_rounded_and_never_to_none(candidates: int, ratio: float, proactive: int) -> None:
    graph = create_rollout_graph(
        ScriptedUser(["a"]),
        SHORT,
        COST,
        Lookahead(candidates=candidates, window=0, max_exchanges=1, proactive_ratio=ratio),
    )
    end = await graph.ainvoke({"messages": [], "task": party()})
    assert sum(one["proactive"] for one in end["turns"][0]["candidates"]) == proactive


async def test_a_window_of_zero_judges_the_reply_itself() -> None:
    graph = create_lookahead_graph(ScriptedUser([]), SHORT, COST, Lookahead(futures=2, window=0))
    end = await graph.ainvoke({"messages": [HumanMessage("a"), AIMessage("x" * 400)], "task": party()})
    assert end["reward"] == pytest.approx(-0.05)
    assert [future["messages"] for future in end["futures"]] == [[], []]


async def test_a_future_that_fails_is_recorded_and_left_out_of_the_mean() -> None:
    def sometimes(messages: Any, context: AssistantContext) -> str:
        if context.seed % 2:
            raise TimeoutError("too slow")
        return "x" * 40

    graph = create_lookahead_graph(ScriptedUser(["a", "b"]), Says(sometimes), COST, Lookahead(futures=8, window=1))
    end = await graph.ainvoke({"messages": [HumanMessage("a"), AIMessage("")], "task": party(), "seed": 1})
    errors = [(index, future["error"]) for index, future in enumerate(end["futures"]) if future["reward"] is None]
    assert 0 < len(errors) < 8
    reason = f"assistant: TimeoutError: too slow ({line_in(sometimes, 2)})"
    assert all(error == f"future {index}: {reason}" for index, error in errors)
    assert end["reward"] == pytest.approx(-0.005)


async def test_of_equal_candidates_the_plain_one_is_chosen_by_rollout_and_agent() -> None:
    equal = MultiturnReward({"equal": lambda conversation, task: 1.0})
    assistant = Says(lambda messages, context: "Which?" if context.proactive else "Here it is.")
    user = ScriptedUser(["a", "b"])
    rollout = create_rollout_graph(
        user, assistant, equal, Lookahead(candidates=4, futures=1, window=1, proactive_ratio=0.5)
    )
    agent = create_lookahead_agent(
        assistant,
        user,
        equal,
        Lookahead(candidates=4, futures=1, window=1, proactive_ratio=0.5),
        agree=lambda texts: False,
    )
    turns = (await rollout.ainvoke({"messages": [], "task": party()}))["turns"]
    told = (await agent.ainvoke({"messages": [HumanMessage("a")]}))["lookahead"]
    assert told["why"] == "the highest reward"
    for turn in (turns[0], told):
        assert [one["proactive"] for one in turn["candidates"]] == [False, False, True, True]
        assert turn["chosen"] == 0


async def test_a_rollout_goes_on_with_the_best_candidate() -> None:
    def reply(messages: Sequence[BaseMessage], context: AssistantContext) -> str:
        return "When is it? Where? What to wear?" if context.proactive else ("word " * 30).strip()

    def knows_all(messages: Sequence[BaseMessage]) -> bool:
        return all(value in str(messages) for value in ("14 June", "Blue Barn", "in white"))

    graph = create_rollout_graph(
        AgendaUser(),
        Says(lambda messages, context: DRAFT if knows_all(messages) else reply(messages, context)),
        MultiturnReward({"fact_coverage": fact_coverage()}),
        Lookahead(candidates=3, futures=2, window=1, proactive_ratio=0.34),
    )
    end = await graph.ainvoke({"messages": [], "task": party(), "seed": 5})
    first = end["turns"][0]
    assert [one["proactive"] for one in first["candidates"]] == [False, False, True]
    assert [one["reward"] for one in first["candidates"]] == [0.0, 0.0, 1.0]
    assert first["chosen"] == 2
    assert first["prompt"] == [{"role": "user", "content": "Can you write an invitation?"}]
    assert end["stopped"] == "user"
    assert end["reward"] == 1.0
    assert end["messages"][-2].content == DRAFT


async def test_the_conversation_goes_on_as_the_chosen_future_did() -> None:
    graph = create_rollout_graph(
        AgendaUser(), SHORT, COST, Lookahead(candidates=2, futures=2, window=1, max_exchanges=3)
    )
    end = await graph.ainvoke({"messages": [], "task": party(), "seed": 5})
    for turn, following in zip(end["turns"], end["turns"][1:], strict=False):
        chosen = turn["candidates"][turn["chosen"]]
        assert following["prompt"] == turn["prompt"] + chosen["messages"] + chosen["futures"][0]["messages"][:1]
    assert end["stopped"] == "max_turns"
    assert len(end["turns"]) == 3
    assert end["assistant_memory"] == {"spoke": 3}, "what happened in futures is forgotten"


async def test_no_branch_sees_what_another_one_remembers() -> None:
    seen: list[Any] = []

    async def leaky(messages: Sequence[BaseMessage], memory: Memory) -> tuple[BaseMessage, Memory]:
        notes = memory.setdefault("notes", [])
        seen.append((len(messages), len(notes)))
        notes.append(len(messages))
        return HumanMessage("go on"), memory

    graph = create_rollout_graph(leaky, SHORT, COST, Lookahead(candidates=3, futures=3, window=2, max_exchanges=2))
    await graph.ainvoke({"messages": [], "task": party()})
    assert {(said, notes) for said, notes in seen if said // 2 != notes} == set()


async def test_a_turn_without_a_scored_candidate_ends_the_rollout_with_the_reason() -> None:
    reward = MultiturnReward({"fact_coverage": fact_coverage()})
    graph = create_rollout_graph(ScriptedUser(["a", "b"]), SHORT, reward)
    with pytest.raises(RolloutError) as error:
        await graph.ainvoke({"messages": [], "task": Task(id="x", goal="y")})
    assert str(error.value) == (
        "turn 1: no candidate could be scored: fact_coverage: task 'x' has no metadata.agenda to play or judge by"
    )


async def test_the_rollouts_usage_is_that_of_all_its_branches(serve: Callable[..., Server]) -> None:
    server = serve()
    assistant = ChatAssistant(load_chat_model("openai:any", base_url=server.url))
    graph = create_rollout_graph(
        AgendaUser(), assistant, COST, Lookahead(candidates=2, futures=2, window=1, max_exchanges=2)
    )
    end = await graph.ainvoke({"messages": [], "task": party()})
    assert end["usage"]["calls"] == server.stats()["calls"] == 2 * 2 * 3


async def test_proactive_candidates_get_the_proactive_prompt(serve: Callable[..., Server]) -> None:
    server = serve("--log")
    assistant = ChatAssistant(
        load_chat_model("openai:any", base_url=server.url), system_prompt="Plain.", proactive_prompt="Ask first."
    )
    graph = create_rollout_graph(
        ScriptedUser(["a"]),
        assistant,
        COST,
        Lookahead(candidates=4, futures=1, window=0, max_exchanges=1, proactive_ratio=0.5),
    )
    end = await graph.ainvoke({"messages": [], "task": party()})
    assert sorted(server.prompts()) == ["Ask first.a", "Ask first.a", "Plain.a", "Plain.a"]
    assert "system" not in {message["role"] for message in end["turns"][0]["prompt"]}


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_the_graphs_nest_in_a_graph_with_a_checkpointer(durability: Any) -> None:
    class AppState(MessagesState, total=False):
        task: dict[str, Any]
        reward: float
        turns: list[Any]

    app = StateGraph(AppState)
    app.add_node("talk", create_conversation_graph(ScriptedUser(["one", "two"]), SHORT, max_exchanges=1))
    app.add_node("look", create_lookahead_graph(ScriptedUser(["one", "two"]), SHORT, COST, Lookahead(window=1)))
    app.add_node("play", create_rollout_graph(ScriptedUser(["one", "two"]), SHORT, COST, Lookahead(window=1)))
    app.add_edge(START, "talk")
    app.add_edge("talk", "look")
    app.add_edge("look", "play")
    compiled = app.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    end = await compiled.ainvoke({"messages": [], "task": party().model_dump()}, config, durability=durability)
    assert texts(end["messages"]) == ["one", "reply 1", "two", "reply 3"]
    assert end["reward"] < 0


async def test_astream_shows_the_branches_as_they_end() -> None:
    graph = create_rollout_graph(
        ScriptedUser(["one", "two"]), SHORT, COST, Lookahead(candidates=2, futures=3, window=1)
    )
    nodes: list[tuple[int, str]] = []
    async for path, update in graph.astream({"messages": [], "task": party()}, stream_mode="updates", subgraphs=True):
        nodes += [(len(path), name) for name in update]
    first_choice = nodes.index((0, "choose"))
    seen = nodes[:first_choice]
    assert seen.count((0, "candidate")) == 2
    assert seen.count((1, "assistant")) == 2
    assert seen.count((1, "future")) == 6
    assert seen.count((2, "simulated_user")) == seen.count((2, "assistant")) == seen.count((2, "judge")) == 6
    assert {name for depth, name in nodes if depth == 0} == {"simulated_user", "candidate", "choose", "judge"}


async def test_a_rollout_is_the_same_whether_its_steps_are_watched_or_not() -> None:
    marked = ContextVar("marked", default=False)

    async def user(messages: Sequence[BaseMessage], memory: Memory) -> tuple[str | None, Memory]:
        assert not marked.get()
        marked.set(True)
        said = memory.get("said", 0)
        return (None if said == 3 else f"{said} after {len(messages)}"), {"said": said + 1}

    graph = create_rollout_graph(user, SHORT, COST, Lookahead(candidates=2, futures=2, window=3, max_exchanges=2))
    given: Any = {"messages": [], "task": party(), "seed": 5}
    end = await graph.ainvoke(given)
    watched: Any = None
    async for path, values in graph.astream(given, stream_mode="values", subgraphs=True):
        watched = watched if path else values
    assert watched == end
    assert [len(future["messages"]) for future in end["turns"][0]["candidates"][0]["futures"]] == [4, 4]


async def test_a_slow_future_holds_up_no_other_one() -> None:
    judged: list[Task] = []
    others_judged = asyncio.Event()

    class FirstWaits:
        calls = 0

        async def respond(
            self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
        ) -> tuple[list[BaseMessage], Memory]:
            self.calls += 1
            if self.calls == 1:
                await others_judged.wait()
            return [AIMessage("x")], memory

    async def judge(conversation: Conversation, task: Task) -> float:
        judged.append(task)
        if len(judged) == 2:
            others_judged.set()
        return 1.0

    graph = create_lookahead_graph(
        ScriptedUser(["a", "b"]), FirstWaits(), MultiturnReward({"j": judge}), Lookahead(futures=3, window=1)
    )
    async with asyncio.timeout(30):
        end = await graph.ainvoke({"messages": [("user", "a"), ("ai", "b")], "task": party()})
    assert end["reward"] == 1.0


async def test_a_closing_message_ends_a_future_early() -> None:
    async def leaves(messages: Any, memory: Memory) -> tuple[BaseMessage, Memory]:
        return closing("Bye."), memory

    graph = create_lookahead_graph(leaves, SHORT, COST, Lookahead(futures=1, window=5))
    end = await graph.ainvoke({"messages": [("user", "a"), ("ai", "b")], "task": party()})
    assert [message["content"] for message in end["futures"][0]["messages"]] == ["Bye."]
