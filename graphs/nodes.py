"""The nodes that every graph shares: the two participants, each given its memory and its seed."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict
from functools import wraps
from typing import Any, Protocol

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp
from langgraph.graph import START, StateGraph

from collab_agents.assistants import Assistant
from collab_agents.errors import RolloutError, reason_of
from collab_agents.graphs.states import ConversationState, persona_of, task_of
from collab_agents.judges import Conversation
from collab_agents.rewards import MultiturnReward
from collab_agents.seeds import derive_seed
from collab_agents.usage import track_usage
from collab_agents.users import Memory, SimulatedUser, is_closing


class Node(Protocol):
    """What a graph runs: from the state to its update."""

    async def __call__(self, state: Any) -> dict[str, Any]: ...


INSIDE: RunnableConfig = {"configurable": {"__pregel_durability": "async"}}
"""How a node calls a graph that keeps no checkpoints. Without it LangGraph (1.2) breaks there when the graph around

runs with durability="sync", which it hands down.
"""

_LENT = {"task", "persona", "seed", "proactive"}
"""Keys that a participant finds in its memory for one call and that are not kept there."""


# The state is not annotated with its type here: LangGraph would then hand a node that type's keys alone, and these
# nodes serve graphs with more keys than the conversation's.


def opening(graph: "StateGraph[Any, Any, Any, Any]", scene: Node | None) -> str:
    """Where the graph begins: at its start or, where there is one, after its scene."""
    if scene is None:
        return START
    graph.add_node("scene", scene)
    graph.add_edge(START, "scene")
    return "scene"


def user_node(user: SimulatedUser) -> Node:
    @named("simulated_user")
    async def simulated_user(state: Any) -> dict[str, Any]:
        messages = state["messages"]
        seed = derive_seed(state.get("seed", 0), "user", len(messages))
        lent = {"task": task_of(state), "persona": persona_of(state), "seed": seed}
        message, memory = await user.respond(_copies(messages), _lend(state.get("memory"), lent))
        update: dict[str, Any] = {"memory": _own(memory)}
        if message is not None:
            update["messages"] = with_ids([message], messages, seed)
        if is_closing(message):
            update["stopped"] = "user"
        return update

    return simulated_user


def assistant_node(assistant: Assistant, *, max_exchanges: int | None = None) -> Node:
    @named("assistant")
    async def answer(state: Any) -> dict[str, Any]:
        messages = state["messages"]
        seed = derive_seed(state.get("seed", 0), "assistant", len(messages))
        lent = {"seed": seed, "proactive": state.get("proactive", False)}
        reply, memory = await assistant.respond(_copies(messages), _lend(state.get("assistant_memory"), lent))
        exchanges = state.get("exchanges", 0) + 1
        update: dict[str, Any] = {
            "messages": with_ids(reply, messages, seed),
            "assistant_memory": _own(memory),
            "exchanges": exchanges,
        }
        if max_exchanges is not None and exchanges >= max_exchanges:
            update["stopped"] = "max_turns"
        return update

    return answer


def judge_node(reward: MultiturnReward) -> Node:
    async def judge(state: Any) -> dict[str, Any]:
        seed = derive_seed(state.get("seed", 0), "judge")
        result = await reward.score(Conversation(state["messages"], seed), task_of(state))
        return {
            "reward": result.value,
            "scores": {name: score.value for name, score in result.scores.items()},
            "reasons": {name: score.reason for name, score in result.scores.items() if score.reason},
        }

    return judge


def counted(node: Node) -> Node:
    """The node, with the model calls made in it added to the state's usage."""

    @wraps(node)
    async def run(state: Any) -> dict[str, Any]:
        with track_usage() as usage:
            update = await node(state)
        return update | {"usage": asdict(usage)}

    return run


def ends_with_user(state: ConversationState) -> bool:
    return bool(state["messages"]) and state["messages"][-1].type == "human"


def named(name: str) -> Callable[[Node], Node]:
    """Whatever the node raises becomes a RolloutError that says where, interrupts excepted."""

    def decorate(node: Node) -> Node:
        @wraps(node)
        async def run(state: Any) -> dict[str, Any]:
            try:
                return await node(state)
            except GraphBubbleUp:
                raise
            except Exception as error:
                raise RolloutError(f"{name}: {reason_of(error)}") from error

        return run

    return decorate


def with_ids(new: Sequence[BaseMessage], old: Sequence[BaseMessage], seed: int) -> list[BaseMessage]:
    """Every message with an id that is its own: `add_messages` takes a second message with an id for the first."""
    taken = {message.id for message in old}
    named_messages = []
    for index, message in enumerate(new):
        if message.id is None or message.id in taken:
            message = message.model_copy(update={"id": f"{seed:08x}-{len(old)}-{index}"})
        taken.add(message.id)
        named_messages.append(message)
    return named_messages


def _copies(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    return [message.model_copy() for message in messages]


def _lend(memory: Memory | None, lent: Memory) -> Memory:
    """A copy, so that a participant that changes what it was given changes nothing in another branch."""
    return deepcopy(memory or {}) | lent


def _own(memory: Memory) -> Memory:
    return {key: value for key, value in memory.items() if key not in _LENT}
