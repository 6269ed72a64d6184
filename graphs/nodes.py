"""The nodes that all graphs share: user, assistant and judge, each given its memory and its seed."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import asdict
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp
from langgraph.graph import START, StateGraph
from langgraph.types import Command

from collab_agents._internal.containment import PASS_THROUGH, contained
from collab_agents._internal.copies import own_copy
from collab_agents._internal.langgraph_private import DURABILITY
from collab_agents._internal.reasons import reason_of
from collab_agents._internal.seeds import derive_seed
from collab_agents._internal.text import valid
from collab_agents._internal.tracing import traced
from collab_agents.assistants import Assistant
from collab_agents.errors import ConfigError, RolloutError
from collab_agents.graphs.states import State, Update, persona_of, task_of
from collab_agents.judges import Conversation
from collab_agents.messages import is_users, with_ids
from collab_agents.participants import AssistantContext, UserContext, state_of, with_context
from collab_agents.rewards import MultiturnReward, Reward
from collab_agents.tasks import Task
from collab_agents.usage import spent_by, track_usage
from collab_agents.users import Memory, SimulatedUser, is_closing

if TYPE_CHECKING:
    from collab_agents.graphs.conversation import Graph


class Node(Protocol):
    """A graph's node: from the `State` to an update of it."""

    async def __call__(self, state: Any) -> Update: ...


def inside(name: str, **metadata: object) -> RunnableConfig:
    """Return the config for a graph without checkpoints that a node calls; name and metadata show up in traces."""
    # LangGraph (1.2) breaks there if the surrounding graph runs with durability="sync", which it hands down.
    return {"run_name": name, "metadata": metadata, "configurable": {DURABILITY: "async"}}


def opening(graph: "StateGraph[Any, Any, Any, Any]", scene: Node | None) -> str:
    """Return the node after which the graph begins: its scene if it has one, else its start."""
    if scene is None:
        return START
    graph.add_node("scene", scene)
    graph.add_edge(START, "scene")
    return "scene"


def add_speaker(graph: "StateGraph[Any, Any, Any, Any]", name: str, node: Node, *, then: str, end: str) -> None:
    """Add a node after which the graph goes to `then`, or to `end` once the conversation has stopped.

    The node says so in a `Command`, since an edge with a route reads the whole state and costs a quarter of a step.
    """

    async def speak(state: Any) -> Command[str]:
        update = await node(state)
        return Command(update=update, goto=end if update.get("stopped", state.get("stopped")) else then)

    graph.add_node(name, speak, destinations=(then, end))


def user_node(user: SimulatedUser) -> Node:
    """Return the user's node."""
    respond = with_context(user.respond)

    @named("simulated_user")
    async def simulated_user(state: State) -> Update:
        messages = state["messages"]
        seed = derive_seed(state.get("seed", 0), "user", len(messages))
        task = task_of(state)
        own = task.model_copy(update={"metadata": own_copy(task.metadata)})
        context = UserContext(task=own, persona=persona_of(state), seed=seed)
        with _traced(state, "user", seed), spent_by("user"):
            message, memory = _said(await respond(_copies(messages), own_copy(state.get("memory") or {}), context))
        update: Update = {"memory": valid(memory)}
        if message is not None:
            update["messages"] = with_ids([message], messages, seed)
        if is_closing(message):
            update["stopped"] = "user"
        return update

    return simulated_user


def assistant_seed(seed: int, said: int) -> int:
    """Return the seed of the assistant's turn after `said` messages, in the branch with this seed."""
    return derive_seed(seed, "assistant", said)


def assistant_node(assistant: Assistant, *, max_exchanges: int | None = None, executable: bool = False) -> Node:
    """Return the assistant's node. An `executable` reply may be executed later, so an app keeps where it began."""
    respond = with_context(assistant.respond)

    @named("assistant")
    async def answer(state: State) -> Update:
        messages = state["messages"]
        seed = assistant_seed(state.get("seed", 0), len(messages))
        context = AssistantContext(
            seed=seed,
            proactive=state.get("proactive", False),
            system_prompt=state.get("system_prompt"),
            executable=executable,
        )
        with _traced(state, "assistant", seed), spent_by("assistant"):
            reply, memory = await respond(_copies(messages), own_copy(state.get("assistant_memory") or {}), context)
        exchanges = state.get("exchanges", 0) + 1
        update: Update = {
            "messages": with_ids(reply, messages, seed),
            "assistant_memory": valid(memory),
            "exchanges": exchanges,
        }
        if max_exchanges is not None and exchanges >= max_exchanges:
            update["stopped"] = "max_turns"
        return update

    return answer


def judge_node(reward: MultiturnReward, assistant: Assistant) -> Node:
    """Return the node that judges the conversation with the assistant's state."""

    async def judge(state: State) -> Update:
        conversation = conversation_of(state, assistant)
        with _traced(state, "judge", conversation.seed):
            return verdict_of(await reward.score(conversation, task_of(state)))

    return judge


def conversation_of(state: State, assistant: Assistant | None = None) -> Conversation:
    """Return the state's conversation as judges see it, with the assistant's own state if there is an assistant."""
    return Conversation(
        state["messages"],
        derive_seed(state.get("seed", 0), "judge"),
        state_of(assistant, state.get("assistant_memory") or {}) if assistant else {},
        persona=persona_of(state),
        start=state.get("start", 0),
        stopped=state.get("stopped"),
    )


def verdict_of(result: Reward) -> Update:
    """Return a reward as an update of a state."""
    return {
        "reward": result.value,
        "scores": {name: score.value for name, score in result.scores.items()},
        "reasons": {name: valid(score.reason) for name, score in result.scores.items() if score.reason},
        "faults": result.faults,
    }


def running(graph: "Graph") -> Callable[[Node], Node]:
    """Mark a node as running `graph`, which a drawing then shows inside it."""

    def mark(node: Node) -> Node:
        vars(node)["graph"] = graph
        return node

    return mark


def counted(node: Node) -> Node:
    """Wrap a node so that its model calls are added to the state's usage."""

    @wraps(node)
    async def run(state: State) -> Update:
        with track_usage() as usage:
            update = await node(state)
        return update | {"usage": asdict(usage)}

    return run


def ends_with_user(state: State) -> bool:
    return bool(state["messages"]) and is_users(state["messages"][-1])


def named(name: str) -> Callable[[Node], Node]:
    """Turn what the node raises, except interrupts, into a RolloutError that names the node."""

    def decorate(node: Node) -> Node:
        @wraps(node)
        async def run(state: State) -> Update:
            try:
                with contained():
                    return await node(state)
            except (GraphBubbleUp, *PASS_THROUGH):
                raise
            except BaseException as error:
                raise RolloutError(f"{name}: {reason_of(error)}") from error

        return run

    return decorate


# Participants get copies, so that changing their arguments does not affect another branch.


def _copies(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    return [_copy(message) for message in messages]


def _copy(message: BaseMessage) -> BaseMessage:
    copied = copy(message)  # With `model_copy`, replacing its parts takes twice as long as all the rest.
    for name, value in vars(message).items():
        if isinstance(value, (dict, list)):
            vars(copied)[name] = own_copy(value)
    return copied


def _said(result: object) -> tuple[BaseMessage | None, Memory]:
    """Check what a custom user returned, and turn a text into a message."""
    match result:
        case (str() as text, dict() as memory):
            return HumanMessage(text), memory
        case (None | HumanMessage() as message, dict() as memory):
            return message, memory
    raise ConfigError(f"the user returned {str(result)[:80]!r}: expected (a user's message, a text or None, memory)")


def _traced(state: State, role: str, seed: int) -> AbstractContextManager[None]:
    task = state.get("task")
    task_id = task.id if isinstance(task, Task) else (task or {}).get("id")
    return traced(tag=role, role=role, task=task_id, turn=turn_of(state) + (role == "user"), seed=seed)


def turn_of(state: State) -> int:
    """Return the number, from 1, of the turn that the user's last message began."""
    return sum(map(is_users, state["messages"]))
