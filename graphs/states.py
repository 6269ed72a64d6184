"""The typed state of each graph, and the keys that all of them share.

What goes into a checkpoint is LangChain messages and plain JSON values, nothing else.
"""

import operator
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from langgraph.graph.message import MessagesState

from collab_agents.messages import to_dicts
from collab_agents.personas import Persona
from collab_agents.tasks import Task
from collab_agents.trajectories import Trajectory
from collab_agents.usage import Usage
from collab_agents.users import Memory

Stopped = Literal["user", "max_turns"]


class ServedInput(MessagesState, total=False):
    """What the graphs take from a server's clients.

    Other keys, such as those of an output that is fed back, are ignored.
    messages: as in MessagesState; none, or a conversation to go on with.
    task: the goal, a `Task` or its dict. persona: a `Persona`, its dict, or None. Where checkpoints are kept, dicts.
    seed: the branch's own.
    """

    task: Any
    persona: Any
    seed: int


class ConversationInput(ServedInput, total=False):
    """What the graphs take.

    memory, assistant_memory: what the user and the assistant remember. system_prompt: the conversation's own, which
    replaces the assistant's.
    """

    memory: Memory
    assistant_memory: Memory
    system_prompt: str | None


class ConversationState(ConversationInput, total=False):
    """exchanges: how many this run has played. stopped: why the conversation ended."""

    exchanges: int
    stopped: Stopped | None


class FutureState(ConversationState, total=False):
    """One future of a candidate.

    future: which one. first: the user's first step in it, from which the conversation goes on if the candidate is
    chosen. reward, scores, reasons: as in `trajectories.Future`.
    """

    future: int
    first: dict[str, Any]
    reward: float | None
    scores: dict[str, float | None]
    reasons: dict[str, str]


def _gather(gathered: list[Any], new: list[Any] | None) -> list[Any]:
    return [] if new is None else [*gathered, *new]


class LookaheadState(ConversationState, total=False):
    """The lookahead after one reply.

    futures: a record of each, as in `trajectories.Future`. reward, scores: their means. firsts: the user's first step
    in each future.
    """

    futures: Annotated[list[dict[str, Any]], _gather]
    firsts: Annotated[list[dict[str, Any] | None], _gather]
    reward: float | None
    scores: dict[str, float | None]


class CandidateState(LookaheadState, total=False):
    """index: which candidate of its turn. proactive: whether it is sampled with the proactive prompt."""

    index: int
    proactive: bool


def _sum(total: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    return {key: total.get(key, 0) + more.get(key, 0) for key in {**total, **more}}


class JudgedState(ConversationState, total=False):
    """reward, scores, reasons: of the whole conversation, once it has ended. usage: calls and tokens so far."""

    reward: float | None
    scores: dict[str, float | None]
    reasons: dict[str, str]
    usage: Annotated[dict[str, int], _sum]


class RolloutState(JudgedState, total=False):
    """turns: a record of each, as in `trajectories.Turn`. candidates: this turn's, until one is chosen."""

    turns: Annotated[list[dict[str, Any]], operator.add]
    candidates: Annotated[list[dict[str, Any]], _gather]


def task_of(state: ConversationState) -> Task:
    """The state's task. Raises ValueError if the graph was called without one."""
    task = state.get("task")
    if task is None:
        raise ValueError("the graph's input has no task: pass {'task': Task(id=..., goal=...), 'messages': []}")
    return task if isinstance(task, Task) else Task.model_validate(task)


def persona_of(state: ConversationState) -> Persona | None:
    persona = state.get("persona")
    return persona if persona is None or isinstance(persona, Persona) else Persona.model_validate(persona)


def trajectory_of(state: Mapping[str, Any], task: Task, persona: Persona | None, seed: int) -> Trajectory:
    """The record of a conversation that has ended, of its graph's final state."""
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
        usage=Usage(**state["usage"]),
    )


def branch_of(state: ConversationState) -> dict[str, Any]:
    """What a branch takes over from the state it branches off: everything that is said and remembered."""
    return {
        "messages": state["messages"],
        "task": state.get("task"),
        "persona": state.get("persona"),
        "memory": state.get("memory") or {},
        "assistant_memory": state.get("assistant_memory") or {},
        "system_prompt": state.get("system_prompt"),
    }
