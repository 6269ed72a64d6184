"""What somebody sees: a terminal's screen, made of the codes that are written to it, and a process at a terminal."""

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Sequence

from rich.cells import cell_len

_QUIET = 0.05
"""Seconds without output after which a picture is complete."""
_CODE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b\][^\x07]*\x07|\x1b.")


class Screen:
    """The lines of a terminal. It knows the codes that are in use here, and refuses others."""

    def __init__(self, columns: int, lines: int) -> None:
        self.size = columns, lines
        self.lines = [""]
        self.line = self.column = 0
        self.cursor_shown = True
        self._rest = ""

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines)

    def resize(self, columns: int, lines: int) -> None:
        """As terminals do: lines that are too long are wrapped, and those that no longer fit are scrolled away."""
        wrapped: list[str] = []
        here = 0
        for number, line in enumerate(self.lines):
            if number == self.line:
                here = len(wrapped) + self.column // columns
            wrapped += [line[at : at + columns] for at in range(0, max(1, len(line)), columns)]
        while len(wrapped) > lines:
            last = len(wrapped) - 1
            gone = last if here < last and not wrapped[last].strip() else 0
            del wrapped[gone]
            here -= gone == 0
        self.size, self.lines = (columns, lines), wrapped
        self.line, self.column = here, self.column % columns

    def feed(self, written: str) -> None:
        written = self._rest + written
        start = written.rfind("\x1b")
        cut = start if start >= 0 and not _CODE.match(written, start) else len(written)
        written, self._rest = written[:cut], written[cut:]
        at = 0
        while at < len(written):
            if code := _CODE.match(written, at):
                self._obey(code[2] or "", code[1] or "", code[0])
                at = code.end()
            else:
                self._put(written[at])
                at += 1

    def _obey(self, letter: str, given: str, code: str) -> None:
        if letter == "A":
            self.line = max(0, self.line - int(given or 1))
        elif letter == "K" and given == "2":
            self.lines[self.line] = ""
        elif letter == "J" and given == "2":
            self.lines = [""] * len(self.lines)
        elif letter == "H" and not given:
            self.line = self.column = 0
        elif letter in "lh" and given == "?25":
            self.cursor_shown = letter == "h"
        else:
            assert letter == "m", f"unknown code {code!r}"

    def _put(self, one: str) -> None:
        if one == "\r":
            self.column = 0
        elif one == "\n":
            self._down()
        elif one == "\x08":
            self.column = max(0, self.column - 1)
        else:
            assert one.isprintable(), f"control character {one!r}"
            width = cell_len(one)
            if self.column + width > self.size[0]:
                self.column = 0
                self._down()
            line = self.lines[self.line].ljust(self.column)
            # A wide character is followed by an empty cell.
            self.lines[self.line] = line[: self.column] + one.ljust(width) + line[self.column + width :]
            self.column += width

    def _down(self) -> None:
        self.line += 1
        if self.line == len(self.lines):
            self.lines.append("")
        if len(self.lines) > self.size[1]:
            del self.lines[0]
            self.line -= 1


class Terminal:
    """A process at a terminal of its own."""

    def __init__(self, command: Sequence[str], columns: int = 120, lines: int = 30, **environment: str) -> None:
        self.screen = Screen(columns, lines)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            settings = {"OPENAI_API_KEY": "", "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
            os.execvpe(command[0], list(command), {**inherited, **settings, **environment})
        self.raw = ""

    def see(self, wanted: Callable[[str], object] | str, seconds: float = 60) -> str:
        """The screen, once a pattern is on it, or a function of it is true. Fails if the process ends before."""
        seen = self._until((lambda text: re.search(wanted, text)) if isinstance(wanted, str) else wanted, seconds)
        assert seen is not None, f"it ended without that on the screen:\n{self.screen.text}"
        return seen

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(columns, lines)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def end(self) -> tuple[int, str]:
        """The exit code, and the screen."""
        self._until(lambda text: False, 60)
        os.close(self.terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), self.screen.text

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def _until(self, wanted: Callable[[str], object], seconds: float) -> str | None:
        """The screen, once it is as wanted and nothing more comes for a moment; None if the process ends before."""
        deadline = time.monotonic() + seconds
        while True:
            while select.select([self.terminal], [], [], _QUIET)[0]:
                try:
                    written = self._decoder.decode(os.read(self.terminal, 65536))
                except OSError:  # So a terminal ends.
                    return None
                self.raw += written
                self.screen.feed(written)
            if wanted(self.screen.text):
                return self.screen.text
            assert time.monotonic() < deadline, self.screen.text
