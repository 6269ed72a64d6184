"""The candidates of a turn while they are sampled and scored, on a terminal."""

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessageChunk, BaseMessage
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from collab_agents._internal.text import harmless
from collab_agents.cli.coach import number
from collab_agents.messages import text_of

_SHOWN = 300
"""The most characters of a candidate that are shown, from its end, so that several fit on a screen."""


class LiveCandidates:
    """Shows the words of a turn's candidates as they come, then their rewards, and nothing once it is stopped."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner = Spinner("dots", "looking ahead ...")
        self._live: Live | None = None
        self._words: dict[int, str] = {}
        self._rewards: dict[int, float | None] = {}

    def start(self) -> None:
        self._words, self._rewards = {}, {}
        self._live = Live(console=self._console, get_renderable=self._shown, transient=True, refresh_per_second=8)
        self._live.start()

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def add(self, chunk: BaseMessage, metadata: Mapping[str, Any]) -> None:
        """Show a chunk of a message if it is from a candidate, and not from a future after one."""
        path = [part.partition(":")[0] for part in str(metadata.get("langgraph_checkpoint_ns", "")).split("|")]
        if path[:2] == ["candidate", "assistant"] and isinstance(chunk, AIMessageChunk):
            index = metadata["candidate"]
            self._words[index] = self._words.get(index, "") + text_of(chunk)

    def scored(self, record: Mapping[str, Any]) -> None:
        """Show the reward of a candidate, by its record in the rollout's state."""
        index = record["index"]
        self._words[index] = " ".join(text_of(message) for message in record["reply"]) or record["error"] or ""
        self._rewards[index] = record["reward"]

    def _shown(self) -> Group:
        lines = []
        for index, words in sorted(self._words.items()):
            reward = f" (reward {number(self._rewards[index])})" if index in self._rewards else ""
            words = " ".join(words.split())
            tail = words if len(words) <= _SHOWN else f"... {words[-_SHOWN:]}"
            lines.append(Text.assemble((f"{index + 1}{reward}: ", "bold"), harmless(tail)))
        return Group(*lines, self._spinner)
