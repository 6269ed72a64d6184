"""The interface that runs one turn of an app in isolation, and its result."""

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
"""The keys of `configurable` that locate a run.

If `run_id`, which a server sets, stays the same, LangGraph treats a thread's next turn as a resumption of the last one
and drops its input.
"""


class AppError(RolloutError):
    """An app gave no reply: it raised an error, did not end, or returned something that is not a reply.

    Attributes:
        branch: The progress of a turn that was being executed, if known.
        after: The memory to continue with, if `GraphAssistant.execute` raised the error.
    """

    branch: Kept | None = None
    after: Memory | None = None


@dataclass
class AppResult:
    """The result of a run of the app.

    Attributes:
        before: The values of its thread before the run.
        values: Its output, or its state if it has a thread.
        interrupts: The interrupts it waits for.
        branch: The branch to remember, as JSON values.
        kept: The branch from which an execution continues. After a simulated turn, the branch before anything was
            simulated or an interrupt was answered, or None if neither happened. After an executed turn, the branch as
            it is now.
    """

    before: object
    values: object
    interrupts: list[Interrupt] = field(default_factory=list)
    branch: Kept = field(default_factory=dict)
    kept: Kept | None = None


class Driver(Protocol):
    name: str

    async def drive(
        self, branch: Kept, given: object, config: RunnableConfig, context: object, turn: AppTurn, calls: Calls
    ) -> AppResult:
        """Run the app from `branch`, {} at first, without changing `branch` or anything it refers to."""
        ...

    async def values(self, branch: Kept) -> object:
        """Return the values of the branch's thread, or {} if it has none."""
        ...

    async def fork(self, thread: RunnableConfig) -> tuple[object, list[Interrupt], Kept]:
        """Return the values of a live thread, the interrupts it waits for, and a branch that begins there."""
        ...

    async def check_unchanged(self, branch: Kept) -> None:
        """Raise RolloutError if the branch began with a fork of a thread that has changed since."""
        ...

    async def commit(self, branch: Kept) -> Kept:
        """Write the branch to the live thread, store and caches, and return the branch to continue with."""
        ...

    async def settle(self, branch: Kept) -> Kept:
        """Apply the branch's writes to the live store and caches, and return the branch to continue with."""
        ...


@contextmanager
def own_root() -> Iterator[RunnableConfig]:
    """Detach the calls inside from the enclosing graph, whose checkpointer, thread and stream they would use.

    They stay in its trace, and their model calls are counted. Yields the caller's config, to be passed on.
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
    """Return `configurable` without the keys that locate the caller's own run."""
    return {key: one for key, one in configurable.items() if key not in _COORDINATES and not key.startswith("__")}


def context_around() -> object:
    """Return the runtime context of the enclosing graph, if any, unless it is a served graph's settings."""
    try:
        context = get_runtime().context
    except (RuntimeError, KeyError):
        return None
    return None if isinstance(context, HiddenFromApps) else context
