"""Drive an app that is a LangGraph deployment."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Interrupt

from collab_agents._internal.containment import Late, within
from collab_agents._internal.reasons import reason_of
from collab_agents._internal.seeds import Calls
from collab_agents.assistants.apps.branches import Kept
from collab_agents.assistants.apps.driver import AppError, AppResult, own_root
from collab_agents.assistants.apps.simulated_tools import AppTurn
from collab_agents.errors import ConfigError


class RemoteDriver:
    """Drives a LangGraph deployment. Every turn runs on a copy of the thread, which the deployment makes."""

    def __init__(self, app: RemoteGraph, name: str, *, timeout: float | None) -> None:
        if app.client is None:
            raise ConfigError(f"app {name!r}: a RemoteGraph needs a url or an async client")
        self.name = name
        self.app = app
        self.timeout = timeout
        self.client = app.client
        self.made: set[str] = set()
        """The threads made for branches, until they are deleted."""

    async def drive(
        self, branch: Kept, given: object, config: RunnableConfig, context: object, turn: AppTurn, calls: Calls
    ) -> AppResult:
        more: dict[str, Any] = {} if context is None else {"context": context}
        try:
            with own_root() as around:
                return await within(self.timeout, self._run(branch, given, merge_configs(around, config), more))
        except Late as error:
            raise AppError(f"app {self.name!r}: no reply within {self.timeout:g} s") from error
        except Exception as error:
            raise AppError(f"app {self.name!r}: {reason_of(error)}") from error

    async def values(self, branch: Kept) -> object:
        return (await self.client.threads.get_state(branch["remote"]))["values"] if "remote" in branch else {}

    async def check_unchanged(self, branch: Kept) -> None:
        """Do nothing: a deployment only runs on copies of its threads."""

    async def settle(self, branch: Kept) -> Kept:
        return dict(branch)

    async def _run(self, branch: Kept, given: object, config: RunnableConfig, more: dict[str, Any]) -> AppResult:
        before = await self.values(branch)
        if "remote" in branch:
            thread_id = await self._copy(branch["remote"])
        else:
            thread_id = (await self.client.threads.create(metadata={"made_by": "collab-agents"}))["thread_id"]
            self.made.add(thread_id)
        config = merge_configs(config, {"configurable": {"thread_id": thread_id}})
        values: object = None
        async for event in self.app.astream(given, config, stream_mode="values", **more):
            values = event
        asked = values.pop("__interrupt__", ()) if isinstance(values, dict) else ()
        return AppResult(before, values, _interrupts(asked), {"remote": thread_id})

    async def fork(self, thread: RunnableConfig) -> tuple[object, list[Interrupt], Kept]:
        thread_id = thread["configurable"]["thread_id"]
        if thread["configurable"].get("checkpoint_id"):
            raise ConfigError(f"app {self.name!r}: a deployment's thread cannot be forked at a checkpoint_id")
        try:
            copied = await self._copy(thread_id)
            state = await self.client.threads.get_state(copied)
        except Exception as error:
            raise ConfigError(f"app {self.name!r} has no thread {thread_id!r}: {reason_of(error)}") from error
        asked = [one for task in state["tasks"] for one in task.get("interrupts", ())]
        return state["values"], _interrupts(asked), {"remote": copied}

    async def commit(self, branch: Kept) -> Kept:
        raise ConfigError(f"app {self.name!r}: a deployment's thread cannot be written to; continue with the fork")

    async def _copy(self, thread_id: str) -> str:
        made: Any = await cast(Any, self.client.threads.copy(thread_id))
        self.made.add(made["thread_id"])
        return made["thread_id"]

    async def delete_threads(self) -> None:
        while self.made:
            await self.client.threads.delete(self.made.pop())


def _interrupts(asked: Iterable[Mapping[str, Any]]) -> list[Interrupt]:
    return [Interrupt(value=one["value"], id=one.get("id") or "") for one in asked]
