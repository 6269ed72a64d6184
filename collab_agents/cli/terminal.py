"""The person at the terminal: input lines and output text, either of which may be a pipe."""

import asyncio
import codecs
import os
import sys
import threading
from collections.abc import Mapping, Sequence

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from rich.console import Console
from rich.text import Text

from collab_agents._internal.text import harmless
from collab_agents.messages import text_of


class Terminal:
    """A terminal, used inside a running event loop. Waiting for a line can be cancelled and does not delay an exit."""

    def __init__(self) -> None:
        plain = Console()
        # Without a terminal, the width is not limited.
        self.console = plain if plain.is_terminal else Console(width=200)
        self._whole_lines = not plain.is_terminal
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._echo = not (sys.stdin and sys.stdin.isatty())
        # A thread, because a loop cannot watch a file. It reads the descriptor itself, because Python's reader holds a
        # lock on standard input while it waits, which would break the interpreter's exit.
        threading.Thread(target=self._read, daemon=True, name="stdin").start()

    async def ask(self, label: str) -> str | None:
        """Return what the person says, asking again while it is empty, or None at the end of input.

        A line that ends with a backslash continues on the next.
        """
        while True:
            self.label(label)
            said = ""
            # The terminal showed a line that was typed ahead elsewhere, and something else may be there by now.
            echo = self._echo or not self._lines.empty()
            while True:
                line = await self._lines.get()
                if echo:
                    self.write((line or "") + "\n")
                    echo = self._echo
                if line is None or not line.endswith("\\"):
                    break
                said += line[:-1] + "\n"
            said = f"{said}{line or ''}".strip()
            if line is None:
                self._lines.put_nowait(None)  # Later calls get the end too.
                return said or None
            if said:
                return said

    def label(self, name: str) -> None:
        self.console.print(Text(f"{name}:", style="bold"), end=" ")

    def say(self, name: str, words: str) -> None:
        self.console.print(Text.assemble((f"{name}:", "bold"), " ", harmless(words)), soft_wrap=self._whole_lines)

    def write(self, words: str) -> None:
        """Write text immediately."""
        self.console.file.write(harmless(words))
        self.console.file.flush()

    def note(self, text: str, style: str = "") -> None:
        self.console.print(Text(harmless(text), style=style), soft_wrap=self._whole_lines)

    def command(self, text: str) -> None:
        """Print a shell command, without a line break that would be copied with it."""
        self.console.print(Text(harmless(text)), soft_wrap=True)

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        data = b"?"
        while data:
            try:
                data = os.read(0, 65536) if sys.stdin else b""
            except OSError:  # The terminal is gone.
                data = b""
            *lines, rest = (rest + decoder.decode(data, final=not data)).split("\n")
            coming: list[str | None] = [line.removesuffix("\r") for line in lines]
            if not data:
                coming += [rest, None] if rest else [None]
            try:
                for line in coming:
                    self._loop.call_soon_threadsafe(self._lines.put_nowait, line)
            except RuntimeError:  # The loop has ended.
                return


class StreamedReply:
    """Shows the assistant's reply once, whether or not its model streams."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._shown: dict[str | None, str] = {}

    def add(self, chunk: BaseMessage, metadata: Mapping[str, object]) -> None:
        """Show a chunk of a message if it is from the assistant's models."""
        node = str(metadata.get("langgraph_checkpoint_ns", "")).partition(":")[0]
        words = text_of(chunk)
        if node != "assistant" or not isinstance(chunk, AIMessageChunk) or not words:
            return
        if chunk.id not in self._shown:
            if self._shown:
                self._terminal.write("\n")
            self._terminal.label("assistant")
        self._shown[chunk.id] = self._shown.get(chunk.id, "") + words
        self._terminal.write(words)

    def finish(self, reply: Sequence[BaseMessage]) -> None:
        """Show what has not been shown of the complete reply."""
        if self._shown:
            self._terminal.write("\n")
        shown = {" ".join(words.split()) for words in self._shown.values()}
        for message in reply:
            words = " ".join(text_of(message).split())
            if message.type == "ai" and words and words not in shown:
                self._terminal.say("assistant", text_of(message))
            if isinstance(message, AIMessage):
                for call in message.tool_calls:
                    self._terminal.note(f"[calls {call['name']}]", "dim")
        self._shown = {}
