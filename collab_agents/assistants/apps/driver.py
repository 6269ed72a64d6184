"""What plays one turn of an app apart from everything else, and what it gives back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.runtime import get_runtime
from langgraph.types import Interrupt

from collab_agents._internal.markers import HiddenFromApps
from collab_agents._internal.seeds import Calls
from collab_agents._internal.tracing import with_handlers
from collab_agents.assistants.apps.branches import Kept
from collab_agents.assistants.apps.simulated_tools import AppTurn
from collab_agents.errors import RolloutError
from collab_agents.participants import Memory
from collab_agents.usage import counting_all_models

_COORDINATES = {"thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "run_id"}
"""Where a run is. By its run_id, which a server sets, LangGraph takes a thread's next turn in the same run for a

resumption of the last one, and drops the input.
"""


class AppError(RolloutError):
    """An app gave no reply: it raised, did not end, or answered with something that is not one.

    branch: of a turn that was being executed, what had been done of it, if that is known.
    after: the same as the memory to go on with, where `GraphAssistant.execute` raises it.
    """

    branch: dict[str, Any] | None = None
    after: Memory | None = None


@dataclass
class AppResult:
    """What came of a run of the app.

    before: the values of its thread before the run. values: its output, or its state where it has a thread.
    interrupts: what it waits for. branch: what has to be remembered of its thread, as JSON values.
    kept: what an execution goes on from. After a simulated turn, the branch as it was before anything was simulated or
    an interrupt was answered, if that happened. After an executed turn, the branch with its thread as it is.
    """

    before: Any
    values: Any
    interrupts: list[Interrupt] = field(default_factory=list)
    branch: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] | None = None


class Driver(Protocol):
    name: str

    async def drive(
        self, branch: Mapping[str, Any], given: Any, config: RunnableConfig, context: Any, turn: AppTurn, calls: Calls
    ) -> AppResult:
        """Run the app on from `branch`, {} at first. `branch` and everything it stands for stay as they are."""
        ...

    async def values(self, branch: Mapping[str, Any]) -> Any:
        """The values of the branch's thread, {} if it has none."""
        ...

    async def fork(self, thread: RunnableConfig) -> tuple[Any, list[Interrupt], Kept]:
        """The values of a live thread, what it waits for, and a branch that begins there."""
        ...

    async def check_unchanged(self, branch: Mapping[str, Any]) -> None:
        """Raises RolloutError if the branch began with a fork of a thread that has gone on since."""
        ...

    async def commit(self, branch: Mapping[str, Any]) -> Kept:
        """Put what the branch has come to into the live thread, store and caches. Returns the branch, to go on with."""
        ...

    async def settle(self, branch: Mapping[str, Any]) -> Kept:
        """Put what the branch has written into the live store and caches. Returns the branch, to go on with."""
        ...


@contextmanager
def own_root() -> Iterator[RunnableConfig]:
    """What is called inside is no part of the graph around, whose checkpointer, thread and stream it would else use.

    It stays in its trace, and its model calls are counted. Gives what the caller configured, to be handed on.
    """
    around: Any = var_child_runnable_config.get() or {}
    kept = {key: around[key] for key in ("tags", "metadata") if around.get(key)}
    if "metadata" in kept:
        kept["metadata"] = {key: value for key, value in kept["metadata"].items() if key != "run_id"}
    with counting_all_models() as counters:
        callbacks = with_handlers(around.get("callbacks"), counters)
        config: Any = {**kept, "callbacks": callbacks}
        token = var_child_runnable_config.set(config)
        try:
            yield {"configurable": without_coordinates(around.get("configurable", {}))}
        finally:
            var_child_runnable_config.reset(token)


def without_coordinates(configurable: Mapping[str, Any]) -> dict[str, Any]:
    """What somebody configured, without where their own run is, which is not where a branch goes on."""
    return {key: one for key, one in configurable.items() if key not in _COORDINATES and not key.startswith("__")}


def context_around() -> Any:
    """The runtime context of the graph that this is called in, if any; a served graph's settings are nobody else's."""
    try:
        context = get_runtime().context
    except (RuntimeError, KeyError):
        return None
    return None if isinstance(context, HiddenFromApps) else context
