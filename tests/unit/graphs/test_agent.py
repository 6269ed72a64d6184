"""The lookahead agent: alone, in a parent graph, and against slow and hung servers."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

from benchmarks.process import Server
from collab_agents import (
    Budget,
    ChatAssistant,
    GraphAssistant,
    LLMUser,
    Lookahead,
    MultiturnReward,
    ScriptedUser,
    create_lookahead_agent,
    create_rollout_graph,
    load_chat_model,
)
from collab_agents.errors import ConfigError, RolloutError
from collab_agents.graphs.agent import goal_so_far
from collab_agents.judges import Conversation, interactivity, token_cost
from collab_agents.models import Limits
from collab_agents.participants import AssistantContext
from collab_agents.trajectories import Candidate
from collab_agents.users import Memory
from tests.support.apps import Calls
from tests.support.reading import line_in, texts
from tests.support.tasks import party

HELLO: dict[str, Any] = {"messages": [HumanMessage("Write me an invitation.")]}
USER = ScriptedUser(["one", "two", "three"])
WORDS = ("A question about the date?", "A long and tiring text about nothing.", "Something else altogether, again.")


class Varied:
    """An assistant whose candidates differ, one of them very slow if told so."""

    def __init__(self, words: Sequence[str] = WORDS, slow: str = "") -> None:
        self.words, self.slow, self.calls = words, slow, 0

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        self.calls += 1
        words = self.words[(self.calls - 1) % len(self.words)]
        await asyncio.sleep(3600 if words == self.slow else 0.01)
        return [AIMessage(words)], memory


def asks(conversation: Conversation, task: Any) -> float:
    return float(conversation.assistant_texts()[0].endswith("?"))


ASKS = MultiturnReward({"asks": asks})


async def test_the_candidate_with_the_highest_reward_is_the_answer_and_the_scores_are_beside_it() -> None:
    for first in range(3):
        words = WORDS[first:] + WORDS[:first]
        agent = create_lookahead_agent(Varied(words), USER, ASKS, Lookahead(candidates=3, futures=2, window=1))
        end = await agent.ainvoke(HELLO)
        assert [message.content for message in end["messages"]] == ["Write me an invitation.", WORDS[0]]
        told = end["lookahead"]
        assert (told["chosen"], told["why"]) == (words.index(WORDS[0]), "the highest reward")
        candidates = [Candidate.model_validate(one) for one in told["candidates"]]
        assert [one.reward for one in candidates] == [float(words[i].endswith("?")) for i in range(3)]
        assert all(len(one.futures) == 2 for one in candidates)


async def test_candidates_that_agree_are_not_looked_at() -> None:
    assistant = Varied(["It is on Monday at noon in the park, as I said before, and nobody need bring a thing."] * 3)
    end = await create_lookahead_agent(assistant, USER, ASKS).ainvoke(HELLO)
    assert end["lookahead"]["why"] == "the first candidate: the candidates agree"
    assert assistant.calls == 3
    never = create_lookahead_agent(assistant, USER, ASKS, agree=lambda texts: False)
    assert (await never.ainvoke(HELLO))["lookahead"]["why"] == "the highest reward"


async def test_a_slow_candidate_holds_up_nothing_but_the_choice() -> None:
    agent = create_lookahead_agent(
        Varied(slow=WORDS[1]), USER, ASKS, Lookahead(futures=2, window=0), budget=Budget(seconds=2)
    )
    end = await agent.ainvoke(HELLO)
    told = end["lookahead"]
    assert told["why"] == "the first candidate: the time budget was spent"
    assert [one["reward"] for one in told["candidates"]] == [1.0, None, 0.0], "both others were judged meanwhile"


async def test_nothing_that_can_be_scored_gives_the_first_candidate() -> None:
    def broken(conversation: Conversation, task: Any) -> float:
        raise ValueError("no judge today")

    agent = create_lookahead_agent(Varied(), USER, MultiturnReward({"broken": broken}))
    told = (await agent.ainvoke(HELLO))["lookahead"]
    assert (told["chosen"], told["why"]) == (0, "the first candidate: none could be scored")
    assert all("no judge today" in one["error"] for one in told["candidates"])


def served(server: Server, **limits: Any) -> Any:
    return load_chat_model("openai:any", base_url=server.url, limits=Limits(max_retries=0, **limits))


def agent_of(model: Any, **options: Any) -> Any:
    reward = MultiturnReward({"interactivity": interactivity(model), "cost": token_cost()})
    return create_lookahead_agent(ChatAssistant(model), LLMUser(model), reward, **options)


async def test_the_time_budget_holds_on_a_slow_server(serve: Callable[..., Server]) -> None:
    quick = agent_of(served(serve("--latency", "0.1", "--jitter", "0")), budget=Budget(seconds=60))
    assert (await quick.ainvoke(HELLO))["lookahead"]["why"] == "the highest reward"

    # A lookahead takes four calls in a row: candidate, user, assistant, judge.
    slow = agent_of(served(serve("--latency", "2", "--jitter", "0")), budget=Budget(seconds=2.5))
    began = time.monotonic()
    told = (await slow.ainvoke(HELLO))["lookahead"]
    took = time.monotonic() - began
    assert (told["chosen"], told["why"]) == (0, "the first candidate: the time budget was spent")
    assert 2.5 <= took < 2.5 + 2 * 2, "a lookahead to its end would have taken 8 s"


async def test_a_hung_call_of_a_future_or_a_candidate_does_not_keep_the_answer(serve: Callable[..., Server]) -> None:
    for answered in (3, 2, 1):  # The futures' calls hang; a candidate's; all candidates' but one.
        model = served(serve("--answered", str(answered)))
        began = time.monotonic()
        end = await agent_of(model, budget=Budget(seconds=2)).ainvoke(HELLO)
        assert time.monotonic() - began < 20
        assert end["messages"][-1].type == "ai"
        assert sum(bool(one["messages"]) for one in end["lookahead"]["candidates"]) == answered


async def test_one_more_call_is_made_when_no_candidate_is_there_in_time(serve: Callable[..., Server]) -> None:
    server = serve("--latency", "0.6", "--jitter", "0")
    end = await agent_of(served(server), budget=Budget(seconds=0.3)).ainvoke(HELLO)
    assert end["lookahead"]["why"] == "the first candidate: the time budget was spent"
    assert server.stats()["calls"] <= 4

    hung = serve("--answered", "0")
    began = time.monotonic()
    with pytest.raises(RolloutError, match=r"there is no reply 0\.5 s after the time budget was spent"):
        await agent_of(served(hung), budget=Budget(seconds=0.3, grace=0.5)).ainvoke(HELLO)
    assert 0.8 <= time.monotonic() - began < 20


@pytest.mark.parametrize("calls", [1, 4, 10])
async def test_the_call_budget_holds(calls: int, serve: Callable[..., Server]) -> None:
    server = serve("--latency", "0.02")
    told = (await agent_of(served(server), budget=Budget(calls=calls)).ainvoke(HELLO))["lookahead"]
    assert told["why"] == "the first candidate: the call budget was spent"
    assert told["chosen"] == min(index for index, one in enumerate(told["candidates"]) if one["messages"])
    assert server.stats()["calls"] <= calls
    assert asyncio.all_tasks() == {asyncio.current_task()}, "nothing goes on in the background"


async def test_it_is_a_node_of_a_parent_graph_that_streams_the_chosen_reply_and_no_other() -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("agent", create_lookahead_agent(Varied(), USER, ASKS))
    graph.add_node("sign", lambda state: {"messages": [AIMessage("Yours, Agent")]})
    graph.add_edge(START, "agent")
    graph.add_edge("agent", "sign")
    graph.add_edge("sign", END)
    parent: Any = graph.compile(checkpointer=InMemorySaver())
    for turn in range(2):
        said: list[BaseMessage] = []
        config: Any = {"configurable": {"thread_id": "1"}}
        asked = {"messages": [HumanMessage("Write me an invitation.")]}
        async for _, (message, _) in parent.astream(asked, config, stream_mode="messages", subgraphs=True):
            said.append(message)
        chunks = [one for one in said if isinstance(one, AIMessageChunk)]
        assert "".join(str(one.content) for one in chunks) == WORDS[0]
        assert len(chunks) > 4
        whole = [str(one.content) for one in said if not isinstance(one, AIMessageChunk) and one.type == "ai"]
        assert whole == ["Yours, Agent"]
        messages = (await parent.aget_state(config)).values["messages"]
        assert len(messages) == 3 * (turn + 1)


async def test_events_of_the_whole_tree_can_be_streamed() -> None:
    agent = create_lookahead_agent(Varied(), USER, ASKS, Lookahead(candidates=2, futures=2, window=1))
    names = Counter(
        [event["name"] async for event in agent.astream_events(HELLO) if event["event"] == "on_chain_start"]
    )
    for candidate in range(2):
        assert names[f"candidate {candidate}"] == names[f"lookahead after candidate {candidate}"] == 1
    assert names["future 0"] == names["future 1"] == 2


async def test_the_users_goal_is_what_they_said_or_what_a_function_finds(serve: Callable[..., Server]) -> None:
    server = serve("--log")
    await agent_of(served(server)).ainvoke(HELLO)
    assert any("- Write me an invitation." in prompt for prompt in server.prompts())

    async def find(messages: Sequence[BaseMessage]) -> Any:
        return goal_so_far(messages).model_copy(update={"goal": "You want a pony."})

    await agent_of(served(server), goal=find).ainvoke(HELLO)
    assert any("You want a pony." in prompt for prompt in server.prompts())


async def test_an_apps_tools_run_once_for_the_chosen_reply_and_its_thread_goes_on() -> None:
    done: list[str] = []

    @tool
    def cancel(order: str) -> str:
        """Cancel an order."""
        done.append(order)
        return f"{order} is cancelled"

    app = Calls([cancel], checkpointer=InMemorySaver()).app
    assistant = GraphAssistant(app, simulate_tools={"cancel": "it would be cancelled"})
    agent = create_lookahead_agent(
        assistant, USER, ASKS, agree=lambda texts: False, checkpointer=InMemorySaver(), budget=Budget(seconds=60)
    )
    config: Any = {"configurable": {"thread_id": "1"}}
    for count, order in enumerate(("7", "8"), 1):
        end = await agent.ainvoke({"messages": [HumanMessage(order)]}, config)
        assert end["messages"][-1].content == f"It says: {order} is cancelled"
        assert done == ["7", "8"][:count]
        state = assistant.state_of(end["assistant_memory"])
        assert state == {}
        assert end["assistant_memory"]["seen"] == end["messages"][-1].id
        assert len(end["messages"]) == 4 * count


async def test_the_call_budget_holds_for_an_app_of_sync_nodes_and_leaves_it_a_reply(
    serve: Callable[..., Server],
) -> None:
    for calls in (1, 5):
        server = serve("--latency", "0.02")
        model = served(server)

        def twice(state: MessagesState, model: Any = model) -> dict[str, Any]:
            model.invoke("think")
            return {"messages": [model.invoke(state["messages"])]}

        graph = StateGraph(MessagesState)
        graph.add_node("twice", twice)
        graph.add_edge(START, "twice")
        agent = create_lookahead_agent(GraphAssistant(graph.compile()), USER, ASKS, budget=Budget(calls=calls))
        end = await agent.ainvoke(HELLO)
        assert end["lookahead"]["why"] == "the first candidate: the call budget was spent"
        assert end["messages"][-1].content
        assert server.stats()["calls"] <= calls + 1, "the second call of the first candidate is made in any case"


async def test_nothing_goes_on_after_the_answer_or_after_its_caller_is_gone(serve: Callable[..., Server]) -> None:
    server = serve("--latency", "0.05")
    model = served(server)
    answered = threading.Event()

    def endless(state: MessagesState) -> dict[str, Any]:
        for _ in range(100):
            model.invoke("and again")
            answered.set()
        return {"messages": [AIMessage("at last")]}

    graph = StateGraph(MessagesState)
    graph.add_node("endless", endless)
    graph.add_edge(START, "endless")
    agent = create_lookahead_agent(GraphAssistant(graph.compile()), USER, ASKS)
    asked = asyncio.create_task(agent.ainvoke(HELLO))
    await asyncio.to_thread(answered.wait)
    asked.cancel()
    await asyncio.wait([asked])
    before, calls = -1, server.stats()["calls"]
    while calls != before:
        await asyncio.sleep(0.5)
        before, calls = calls, server.stats()["calls"]
    assert 0 < calls < 100, "its nodes did not go on to their end"


async def test_what_is_streamed_is_no_one_elses_reply_nor_the_goal_nor_said_twice(serve: Callable[..., Server]) -> None:
    model = load_chat_model("openai:any", base_url=serve().url)

    async def goal(messages: Sequence[BaseMessage]) -> Any:
        await model.ainvoke("What do they want?")
        return goal_so_far(messages)

    set_llm_cache(InMemoryCache())
    try:
        for words in ("A private reply to Ann?", "\n\nAnd one to Bob?"):
            agent = create_lookahead_agent(
                Varied([words]),
                USER,
                ASKS,
                Lookahead(candidates=2, futures=2, window=1),
                agree=lambda texts: False,
                goal=goal,
            )
            said = ""
            stream: Any = agent.astream({"messages": [HumanMessage("Hello")]}, stream_mode="messages")
            async for message, _ in stream:
                said += str(message.content)
            assert said == words
    finally:
        set_llm_cache(None)


async def test_an_agent_inside_an_app_has_the_seeds_of_its_branch() -> None:
    class Seeds:
        async def respond(
            self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
        ) -> tuple[list[BaseMessage], Memory]:
            return [AIMessage(str(context.seed))], memory

    inner = create_lookahead_agent(Seeds(), USER, ASKS, Lookahead(candidates=1, futures=2, window=1))
    rollout = create_rollout_graph(
        USER, GraphAssistant(inner), ASKS, Lookahead(candidates=4, futures=1, max_exchanges=1)
    )
    end = await rollout.ainvoke({"messages": [], "task": party(), "seed": 1})
    assert len({one["messages"][0]["content"] for one in end["turns"][0]["candidates"]}) == 4


async def test_one_candidate_that_fails_at_once_is_no_agreement() -> None:
    class Fails(Varied):
        async def respond(
            self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
        ) -> tuple[list[BaseMessage], Memory]:
            if not self.calls:
                self.calls += 1
                raise ValueError("not today")
            return await super().respond(messages, memory, context)

    agent = create_lookahead_agent(Fails(), USER, ASKS, agree=lambda texts: texts[0] == texts[1])
    told = (await agent.ainvoke(HELLO))["lookahead"]
    reason = f"candidate 0: assistant: ValueError: not today ({line_in(Fails.respond, 5)})"
    assert told["candidates"][0]["error"] == reason
    assert told["why"] == "the highest reward"


async def test_bad_input_is_one_sentence() -> None:
    agent = create_lookahead_agent(Varied(), USER, ASKS)
    with pytest.raises(RolloutError, match=r"deliberate: messages: the last one must be the user's"):
        await agent.ainvoke({"messages": [AIMessage("hi")]})
    with pytest.raises(ConfigError, match="its lookahead needs allocation: uniform"):
        create_lookahead_agent(Varied(), USER, ASKS, Lookahead(allocation="adaptive"))
    with pytest.raises(ConfigError, match=r"agree must be a share in \[0, 1\] or a function, got 2"):
        create_lookahead_agent(Varied(), USER, ASKS, agree=2)


@pytest.mark.parametrize("inside_a_loop", [False, True])
async def test_the_lookahead_agent_can_be_called_sync(inside_a_loop: bool) -> None:
    agent = create_lookahead_agent(Varied(), USER, ASKS)
    end = agent.invoke(HELLO) if inside_a_loop else await asyncio.to_thread(agent.invoke, HELLO)
    assert texts(end["messages"])[-1] == WORDS[0]
    assert end["lookahead"]["why"] == "the highest reward"
    streamed = list(agent.stream(HELLO, stream_mode="updates"))
    assert [name for part in streamed for name in part] == ["deliberate", "execute", "answer"]
