"""A LangGraph thread as a value: read from any saver, carried in a memory, continued in a saver of its own.

A branch that continues from a value writes to nothing that another branch or the app's live thread can see.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypedDict, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, CheckpointMetadata, CheckpointTuple, PendingWrite
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from collab_agents._internal import langgraph_private
from collab_agents.assistants.apps.packing import pack, unpack
from collab_agents.assistants.apps.subgraphs import App
from collab_agents.errors import ConfigError, RolloutError

P = ParamSpec("P")
T = TypeVar("T")

Saver = BaseCheckpointSaver[Any]

_Dump = list[Any]
"""A checkpoint of a captured thread: namespace, id, checkpoint, metadata, parent's id, channels' values, and writes."""


class BranchSaver(InMemorySaver):
    """Keeps a branch's checkpoints in memory, with the serializer and the versions of the app's own saver, `like`.

    Without an app's saver, values that cannot be serialized are kept as objects, as in an app without checkpoints.
    Such a thread cannot be captured.
    """

    def __init__(self, like: Saver | None) -> None:
        super().__init__(serde=like.serde if like else _Keeping())
        self.like = like

    def get_next_version(self, current: Any, channel: None) -> Any:
        return (self.like.get_next_version if self.like else super().get_next_version)(current, channel)

    def capture(self, thread_id: str, *, history: bool) -> "Captured":
        """Capture the thread without deserializing its values.

        `history` includes all earlier checkpoints (see `needs_history`). Raises TypeError for a state that cannot be
        serialized.
        """
        graphs = self.storage[thread_id]
        head = max(graphs[""])
        # The state of a subgraph in a finished step is no longer needed.
        under_way = bool(self.writes.get((thread_id, "", head)))
        taken: list[_Dump] = []
        for ns, checkpoints in graphs.items():
            if under_way or ":" not in ns:
                taken += [self._dump(thread_id, ns, one) for one in (checkpoints if history else [max(checkpoints)])]
        taken.sort(key=lambda one: one[1])
        return Captured(pack(taken), _runs_again(taken))

    def restore(self, text: str, thread_id: str) -> None:
        """Restore a captured thread under the given id."""
        taken: list[_Dump] = unpack(text)
        ids = {one[1] for one in taken}
        for ns, checkpoint_id, checkpoint, metadata, parent, blobs, writes in taken:
            at = (_pair(checkpoint), _pair(metadata), parent if parent in ids else None)
            self.storage[thread_id][ns][checkpoint_id] = at
            for channel, version, value in blobs:
                self.blobs[thread_id, ns, channel, version] = _pair(value)
            for task_id, index, channel, value, path in writes:
                self.writes[thread_id, ns, checkpoint_id][task_id, index] = (task_id, channel, _pair(value), path)

    def _dump(self, thread_id: str, ns: str, checkpoint_id: str) -> _Dump:
        checkpoint, metadata, parent = self.storage[thread_id][ns][checkpoint_id]
        versions = self.serde.loads_typed(checkpoint)["channel_versions"]
        blobs: list[list[Any]] = [
            [channel, version, self.blobs[thread_id, ns, channel, version]]
            for channel, version in versions.items()
            if (thread_id, ns, channel, version) in self.blobs
        ]
        written = self.writes.get((thread_id, ns, checkpoint_id), {})
        writes: list[list[Any]] = [
            [task, at, channel, value, path] for (task, at), (_, channel, value, path) in written.items()
        ]
        if any(kind == _KEPT for kind, _ in [*(one[2] for one in blobs), *(one[3] for one in writes)]):
            raise TypeError("a value in it cannot be serialized")
        return [ns, checkpoint_id, checkpoint, metadata, parent, blobs, writes]


def _pair(serialized: object) -> tuple[str, bytes]:
    """Read a value that LangGraph serialized and `check_packed` accepted. Raises ConfigError for anything else."""
    match serialized:
        case [str() as kind, bytes() as data]:
            return kind, data
    raise ConfigError("assistant_memory holds a thread that no assistant wrote")


_KEPT = "kept"


class _Keeping(JsonPlusSerializer):
    def __init__(self) -> None:
        super().__init__()
        self._kept: list[object] = []

    def dumps_typed(self, obj: object) -> tuple[str, bytes]:
        try:
            return super().dumps_typed(obj)
        except (TypeError, ValueError):
            self._kept.append(obj)
            return _KEPT, str(len(self._kept) - 1).encode()

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        return self._kept[int(data[1])] if data[0] == _KEPT else super().loads_typed(data)


@dataclass(frozen=True)
class Captured:
    """A packed thread, and which of its tasks, by namespace, run again when it is resumed."""

    text: str
    runs_again: Callable[[str], bool]


def needs_history(graphs: Iterable[App]) -> bool:
    """Return whether any channel stores only changes, so that a thread needs all its earlier checkpoints."""
    return any(isinstance(channel, DeltaChannel) for graph in graphs for channel in graph.channels.values())


def _runs_again(taken: Sequence[_Dump]) -> Callable[[str], bool]:
    interrupted = {write[0] for *_, writes in taken for write in writes if write[2] == langgraph_private.INTERRUPTED}
    graphs = {one[0] for one in taken}

    def runs_again(place: str) -> bool:
        path = place.split("|")
        for depth, task in enumerate(path, 1):
            if task.partition(":")[2] in interrupted and (depth == len(path) or "|".join(path[:depth]) not in graphs):
                return True
        return False

    return runs_again


async def fork(saver: Saver, thread: RunnableConfig, *, history: bool) -> BranchSaver | None:
    """Copy a live thread up to the config's checkpoint (default: its last) to a new saver; None if there is none."""
    checkpoints = await _checkpoints(saver, thread, history)
    if not checkpoints:
        return None
    branch = BranchSaver(saver)
    there = {one["checkpoint"]["id"] for one in checkpoints}
    await _put(branch, checkpoints, thread["configurable"]["thread_id"], None, there)
    return branch


async def check_unchanged(saver: Saver, thread_id: str, since: str | None) -> None:
    """Raise RolloutError if a live thread's last checkpoint is no longer `since` (None: no thread yet)."""
    head = await _read(saver, {"configurable": {"thread_id": thread_id}})
    now = head.checkpoint["id"] if head else None
    if now != since:
        raise RolloutError(f"thread {thread_id!r} has gone on since it was forked: its last checkpoint is {now}")


async def commit(saver: Saver, text: str, thread_id: str, since: str | None) -> str:
    """Append a branch's checkpoints to the thread from which it was forked, creating the thread if needed.

    `since` is the thread's last checkpoint when it was forked, None if there was no thread. Returns its last checkpoint
    now. Raises RolloutError if the thread has changed since the fork.
    """
    await check_unchanged(saver, thread_id, since)
    branch = BranchSaver(saver)
    branch.restore(text, thread_id)
    checkpoints = await _checkpoints(branch, {"configurable": {"thread_id": thread_id}}, history=True)
    old = [one for one in checkpoints if since is not None and one["checkpoint"]["id"] <= since]
    # The thread has these checkpoints, but the branch may have added writes such as the answer to an interrupt.
    for one in {one["ns"]: one for one in old}.values():
        await _put_writes(saver, _at(thread_id, one["ns"], one["checkpoint"]["id"]), one["writes"])
    new = checkpoints[len(old) :]
    await _put(saver, new, thread_id, since, {one["checkpoint"]["id"] for one in checkpoints})
    return max((one["checkpoint"]["id"] for one in new if not one["ns"]), default=since or "")


class _Copied(TypedDict):
    """A checkpoint on its way to another saver."""

    ns: str
    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    parent: str | None
    writes: list[PendingWrite]


async def _checkpoints(saver: Saver, thread: RunnableConfig, history: bool) -> list[_Copied]:
    at = thread["configurable"]
    root = await _read(saver, {"configurable": {"checkpoint_ns": "", **_coordinates(at)}})
    if root is None:
        return []
    # Subgraphs, including those that only a tool calls, have checkpoints in namespaces of their own.
    everything = [_record(one) async for one in _list(saver, {"configurable": {"thread_id": at["thread_id"]}})]
    later = [one["checkpoint"]["id"] for one in everything if not one["ns"]]
    end = min((one for one in later if one > root.checkpoint["id"]), default="~")
    known = [one for one in everything if one["checkpoint"]["id"] < end]
    if not root.pending_writes:  # The state of a subgraph in a finished step is no longer needed.
        known = [one for one in known if ":" not in one["ns"]]
    known.sort(key=lambda one: one["checkpoint"]["id"])
    return known if history else list({one["ns"]: one for one in known}.values())


def _coordinates(configurable: Mapping[str, object]) -> dict[str, object]:
    return {name: configurable[name] for name in ("thread_id", "checkpoint_id") if configurable.get(name)}


def _record(one: CheckpointTuple) -> _Copied:
    configurable = one.config["configurable"]
    parent = (one.parent_config or {}).get("configurable", {}).get("checkpoint_id")
    return {
        "ns": configurable.get("checkpoint_ns", ""),
        "checkpoint": one.checkpoint,
        "metadata": {**one.metadata},
        "parent": parent,
        "writes": [tuple(write) for write in one.pending_writes or []],
    }


async def _put(
    saver: Saver, checkpoints: Sequence[_Copied], thread_id: str, since: str | None, there: set[str]
) -> None:
    """Append checkpoints to a thread; `there` are the ids that the thread has afterwards."""
    for one in checkpoints:
        parent = one["parent"]
        if parent not in there:
            # If only a thread's last checkpoint was copied, it follows the saver's last one.
            parent = None if one["ns"] else since
        config = _at(thread_id, one["ns"], parent)
        checkpoint = one["checkpoint"]
        versions = checkpoint["channel_versions"]
        at = await _call(saver.aput, saver.put, config, checkpoint, one["metadata"], versions)
        await _put_writes(saver, at, one["writes"])


async def _put_writes(saver: Saver, at: RunnableConfig, written: Sequence[PendingWrite]) -> None:
    by_task: dict[str, list[tuple[str, object]]] = {}
    for task_id, channel, value in written:
        by_task.setdefault(task_id, []).append((channel, value))
    for task_id, writes in by_task.items():
        await _call(saver.aput_writes, saver.put_writes, at, writes, task_id)


def _at(thread_id: str, ns: str, checkpoint_id: str | None) -> RunnableConfig:
    coordinates = {"thread_id": thread_id, "checkpoint_ns": ns}
    return {"configurable": coordinates | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}


async def _read(saver: Saver, config: RunnableConfig) -> CheckpointTuple | None:
    return await _call(saver.aget_tuple, saver.get_tuple, config)


async def _call(call: Callable[P, Awaitable[T]], sync: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    try:
        return await call(*arguments, **options)
    except NotImplementedError:  # A saver that is sync only, such as SqliteSaver.
        return await asyncio.to_thread(sync, *arguments, **options)


async def _list(saver: Saver, config: RunnableConfig) -> AsyncIterator[CheckpointTuple]:
    try:
        async for one in saver.alist(config):
            yield one
    except NotImplementedError:
        for one in await asyncio.to_thread(lambda: list(saver.list(config))):
            yield one
