"""Lookahead: estimate a reply's reward by simulating several futures after it and judging them."""

import asyncio
from typing import Any, Literal

from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from collab_agents._internal.langgraph_private import is_watched
from collab_agents._internal.reasons import reason_of
from collab_agents.assistants import Assistant
from collab_agents.graphs.conversation import Graph
from collab_agents.graphs.futures import future_seed, means_of, record_future
from collab_agents.graphs.nodes import (
    Node,
    add_speaker,
    assistant_node,
    inside,
    judge_node,
    opening,
    running,
    user_node,
)
from collab_agents.graphs.picture import compiled
from collab_agents.graphs.states import (
    CandidateState,
    ConversationInput,
    FutureState,
    LookaheadState,
    ServedInput,
    State,
    Update,
    branch_of,
)
from collab_agents.humans import check_simulated
from collab_agents.lookahead import Lookahead
from collab_agents.rewards import MultiturnReward
from collab_agents.trajectories import Future
from collab_agents.users import AnyUser, SimulatedUser, as_user


def create_lookahead_graph(
    user: AnyUser,
    assistant: Assistant,
    reward: MultiturnReward,
    lookahead: Lookahead | None = None,
    *,
    scene: Node | None = None,
    checkpointer: Literal[False] | None = None,
) -> Graph:
    """Create a graph that computes the multiturn-aware reward of the reply at the end of a conversation.

    Its input is `messages` that end with the assistant's reply, a `task`, and optionally a `persona`, a `seed` and the
    memories. Its output is `reward`, the mean over the futures that could be scored and were not dropped (None if there
    are none), `scores` by judge, and `futures`, a record of each. `messages` do not change.

    Each future is a separate branch. It ends after `window` exchanges (one user and one assistant message each) or
    when the user is done, and is judged as soon as it ends. A branch that fails is recorded with its error and left
    out of the mean.

    Args:
        user: Plays the user in the futures.
        assistant: Plays the assistant in the futures.
        reward: Scores each future.
        lookahead: How many `futures`, their `window`, and whether those with a faulty user are dropped.
        scene: A node that runs first and adds to the state what the input lacks.
        checkpointer: False keeps the graph from using the checkpointer of a graph whose node calls it.

    Raises:
        ConfigError: If the user or the assistant is a person, who cannot play futures.
    """
    check_simulated(user, assistant, instead="pass a simulated one, which plays the futures")
    graph = StateGraph(LookaheadState, input_schema=ServedInput if scene else ConversationInput)
    _add_futures(graph, opening(graph, scene), as_user(user), assistant, reward, lookahead or Lookahead())
    return compiled(graph, "lookahead", checkpointer)


def create_candidate_graph(
    user: SimulatedUser, assistant: Assistant, reward: MultiturnReward, lookahead: Lookahead
) -> Graph:
    """Create a graph that gives a reply and looks ahead after it."""
    graph = StateGraph(CandidateState)
    graph.add_node("assistant", assistant_node(assistant))
    graph.add_edge(START, "assistant")
    _add_futures(graph, "assistant", user, assistant, reward, lookahead)
    return graph.compile(name="candidate", checkpointer=False)


def _add_futures(
    graph: "StateGraph[Any, Any, Any, Any]",
    after: str,
    user: SimulatedUser,
    assistant: Assistant,
    reward: MultiturnReward,
    lookahead: Lookahead,
) -> None:
    async def branch(state: State) -> list[Send]:
        seed = state.get("seed", 0)
        return [
            Send("future", branch_of(state) | {"future": i, "seed": future_seed(seed, i)})
            for i in range(lookahead.futures)
        ]

    graph.add_node("future", future_node(user, assistant, reward, lookahead))
    graph.add_node("mean", _mean)
    graph.add_conditional_edges(after, branch, ["future"])
    graph.add_edge("future", "mean")
    graph.add_edge("mean", END)


async def _mean(state: Any) -> Update:
    return means_of(state["futures"])


def future_node(user: SimulatedUser, assistant: Assistant, reward: MultiturnReward, lookahead: Lookahead) -> Node:
    """Return a node that plays and judges the future with the index `future` from a branch's state."""
    window = lookahead.window
    reward = reward.reviewing() if lookahead.drop_faulty else reward
    speak, judge = _keeping_first(user_node(user)), judge_node(reward, assistant)
    answer = assistant_node(assistant, max_exchanges=window)
    graph = _create_future_graph(speak, answer, judge, window)

    async def played(state: State) -> State:
        """Play a future as its graph does, without the steps of one, which take a third of the library's CPU time."""
        for node in (speak, answer) * window:
            update = await asyncio.create_task(node(state))  # Context variables that it sets are its own, as in a step.
            state = {**state, **update, "messages": [*state["messages"], *update.get("messages", [])]}
            if state.get("stopped"):
                break
        return {**state, **await asyncio.create_task(judge(state))}

    @running(graph)
    async def future(state: State) -> Update:
        index, start = state["future"], len(state["messages"])
        state = {**state, "start": start}
        try:
            if is_watched():
                end = await graph.ainvoke(state, inside(f"future {index}", future=index, seed=state["seed"]))
            else:
                end = await played(state)
        except GraphBubbleUp:
            raise
        except Exception as error:
            record, first = Future(error=f"future {index}: {reason_of(error)}"), None
        else:
            record, first = record_future(end, start, drop_faulty=lookahead.drop_faulty), end.get("first")
        return {"futures": [record.model_dump()], "firsts": [first]}

    return future


def _keeping_first(speak: Node) -> Node:
    async def simulated_user(state: State) -> Update:
        update = await speak(state)
        if "first" not in state:
            update["first"] = dict(update)
        return update

    return simulated_user


def _create_future_graph(speak: Node, answer: Node, judge: Node, window: int) -> Graph:
    graph = StateGraph(FutureState)
    graph.add_node("judge", judge)
    graph.add_edge("judge", END)
    if window > 0:
        add_speaker(graph, "simulated_user", speak, then="assistant", end="judge")
        add_speaker(graph, "assistant", answer, then="simulated_user", end="judge")
    graph.add_edge(START, "simulated_user" if window > 0 else "judge")
    return graph.compile(name="future", checkpointer=False)
