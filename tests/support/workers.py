"""Participants that trouble the process they are in, for tests of workers. Workers import this module."""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

from langchain_core.messages import AIMessage, BaseMessage

from collab_agents import ChatAssistant, load_chat_model
from collab_agents.participants import AssistantContext, Memory

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
