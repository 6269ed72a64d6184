"""Runs on workers, and participants that trouble the process they are in. Workers import this module."""

import asyncio
import gc
import os
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from collab_agents import (
    ChatAssistant,
    Lookahead,
    MultiturnReward,
    ScriptedUser,
    Task,
    Trajectory,
    generate_trajectories,
    load_chat_model,
)
from collab_agents.judges import token_cost
from collab_agents.participants import AssistantContext, Memory

AHEAD = Lookahead(candidates=2, futures=1, window=1, max_exchanges=2)

METRICS = "RAY_enable_metrics_collection"


class Deadly:
    """An assistant that kills its process when it is told to die: once for each task, or every time.

    It leaves files in a folder: `process-PID` with what it heard in each process, `died-SEED` for each death.
    """

    def __init__(self, folder: Path, *, seconds: float = 0.05, once: bool = True) -> None:
        self.folder = folder
        self.seconds = seconds
        self.once = once

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        said = str(messages[-1].content)
        self._hear(said)
        if "die" in said:
            mark = self.folder / f"died-{context.seed}"
            died = mark.exists()
            mark.touch()
            if not (died and self.once):
                os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(self.seconds)
        return [AIMessage(f"You said {said!r}. Is draft {context.seed} right?")], memory

    def _hear(self, said: str) -> None:
        with open(self.folder / f"process-{os.getpid()}", "a") as heard:
            heard.write(f"{said}\n")


class Locked:
    """An assistant that holds what cannot leave its process."""

    def __init__(self) -> None:
        self.inner = {"guard": threading.Lock()}

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        return [AIMessage("Hello?")], memory


class Frank:
    """An assistant that says how its process is set up."""

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        return [AIMessage(f"{gc.get_threshold()[0]} {os.environ.get(METRICS)}")], memory


def assistant_at(url: str) -> ChatAssistant:
    """For configurations: an assistant with a model of its own."""
    return ChatAssistant(load_chat_model("openai:any", base_url=url))


def tasks(count: int, *, deadly: tuple[int, ...] = ()) -> list[Task]:
    return [Task(id=f"t{n}", goal=f"{'Please die' if n in deadly else 'Write'} {n}") for n in range(count)]


def played(wanted: Any, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "user": ScriptedUser(["{goal}", "Shorter.", "Friendlier."]),
        "reward": MultiturnReward({"token_cost": token_cost()}),
        "lookahead": AHEAD,
    }
    return generate_trajectories(wanted, **(defaults | options))


async def collected(wanted: list[Task], **options: Any) -> dict[str, Trajectory]:
    found = [one async for one in played(wanted, **options)]
    ids = Counter(one.task.id for one in found)
    assert set(ids.values()) <= {1}, f"finished twice: {ids}"
    return {one.task.id: one for one in found}
