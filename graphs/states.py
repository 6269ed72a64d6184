"""The typed state of each graph, and the keys that all of them share.

A checkpoint holds only LangChain messages and plain JSON values.
"""

import operator
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from langgraph.graph.message import MessagesState

from collab_agents.messages import to_dicts
from collab_agents.personas import Persona
from collab_agents.tasks import Task
from collab_agents.trajectories import Trajectory
from collab_agents.usage import Usage, summed
from collab_agents.users import Memory

T = TypeVar("T")

State = Mapping[str, Any]
"""A graph's state as its nodes and edges read it: all its keys, whichever of the types below it has.

Nodes are not annotated with one of these types: LangGraph would then pass a node only that type's keys. Its own types
allow nothing else, so a function that is passed to it directly takes `Any`.
"""

Update = dict[str, Any]
"""A node's update of the state: the keys that change, with their new values."""

Stopped = Literal["user", "max_turns"]


class ServedInput(MessagesState, total=False):
    """The input that graphs take from a server's clients: `messages`, empty or a conversation to continue, and these.

    Other keys, such as those of an output that is fed back, are ignored.
    """

    task: Any
    """A `Task` or its dict; with a checkpointer, its dict."""
    persona: Any
    """A `Persona`, its dict, or None; with a checkpointer, a dict or None."""
    seed: int
    """The branch's seed."""


class ConversationInput(ServedInput, total=False):
    """The input that graphs take in a program."""

    memory: Memory
    """What the user remembers."""
    assistant_memory: Memory
    """What the assistant remembers."""
    system_prompt: str | None
    """This conversation's system prompt, which replaces the assistant's."""


class ConversationState(ConversationInput, total=False):
    """The state of a conversation."""

    exchanges: int
    """How many exchanges this run has played."""
    stopped: Stopped | None
    """Why the conversation ended."""


class FutureState(ConversationState, total=False):
    """One future of a candidate; `reward`, `scores` and `reasons` are as in `trajectories.Future`."""

    future: int
    """The future's index."""
    start: int
    """How many of the messages came before it."""
    first: Update
    """The user's first step in it, with which the conversation continues if the candidate is chosen."""
    reward: float | None
    scores: dict[str, float | None]
    reasons: dict[str, str]
    faults: list[str]
    """The kinds of fault that its user made, as far as a judge looks for them."""


def _gather(gathered: list[T], new: list[T] | None) -> list[T]:
    return [] if new is None else [*gathered, *new]


class LookaheadState(ConversationState, total=False):
    """The lookahead after one reply; `reward` and `scores` are means over its futures."""

    futures: Annotated[list[dict[str, Any]], _gather]
    """A record of each future, as in `trajectories.Future`."""
    firsts: Annotated[list[Update | None], _gather]
    """The user's first step in each future."""
    reward: float | None
    scores: dict[str, float | None]


class CandidateState(LookaheadState, total=False):
    """One candidate of a turn, and the lookahead after it."""

    index: int
    proactive: bool
    """Whether the candidate is sampled with the proactive prompt."""


class JudgedState(ConversationState, total=False):
    """A conversation that is judged as a whole once it has ended."""

    reward: float | None
    scores: dict[str, float | None]
    reasons: dict[str, str]
    usage: Annotated[dict[str, Any], summed]
    """What was spent so far, as `Usage` with plain values."""


class RolloutState(JudgedState, total=False):
    """A rollout."""

    turns: Annotated[list[dict[str, Any]], operator.add]
    """A record of each turn, as in `trajectories.Turn`."""
    candidates: Annotated[list[dict[str, Any]], _gather]
    """The current turn's candidates, and their further futures, until one is chosen."""
    expected: list[dict[str, Any] | None] | None
    """What a value model expects of each of the turn's candidates, as in `trajectories.Expected`."""
    more: list[int]
    """How many futures each candidate gets next."""


def task_of(state: State) -> Task:
    """Return the state's task, or raise ValueError if the graph was called without one."""
    task = state.get("task")
    if task is None:
        raise ValueError("the graph's input has no task: pass {'task': Task(id=..., goal=...), 'messages': []}")
    return task if isinstance(task, Task) else Task.model_validate(task)


def persona_of(state: State) -> Persona | None:
    persona = state.get("persona")
    return persona if persona is None or isinstance(persona, Persona) else Persona.model_validate(persona)


def trajectory_of(state: State, task: Task, persona: Persona | None, seed: int) -> Trajectory:
    """Return the trajectory of a conversation that has ended, from its graph's final state."""
    return Trajectory(
        task=task,
        persona=persona,
        seed=seed,
        messages=to_dicts(state["messages"]),
        stopped=state["stopped"],
        turns=state.get("turns", []),
        reward=state.get("reward"),
        scores=state.get("scores", {}),
        reasons=state.get("reasons", {}),
        usage=Usage.of(state["usage"]),
    )


def branch_of(state: State) -> dict[str, Any]:
    """Return what a branch inherits from the state it branches off: the messages and the memories."""
    return {
        "messages": state["messages"],
        "task": state.get("task"),
        "persona": state.get("persona"),
        "memory": state.get("memory") or {},
        "assistant_memory": state.get("assistant_memory") or {},
        "system_prompt": state.get("system_prompt"),
    }
