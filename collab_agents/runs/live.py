"""Display a run's progress while it runs: as a table on a terminal and in a notebook, as plain lines elsewhere."""

import asyncio
import io
import logging
import sys
from contextlib import ExitStack
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live

from collab_agents.runs.progress import Progress
from collab_agents.runs.table import RunTable

logger = logging.getLogger(__name__)

_NOTEBOOK = (110, 24)
"""The width and height of the table in a notebook."""


class LiveTable(Progress):
    """A `Progress` that displays itself: as a table on a terminal or in a notebook, elsewhere as a line now and then.

    The table has a row for each task under way, as many as fit: its turn, the candidates of this turn that are done,
    the reward of the last choice, and the last words that were said. A row stays in its place until its task ends;
    the task longest under way among those not shown then takes it. Below are the totals, calls per second over the last
    ten seconds, tokens, cost, the most frequent errors, and the time left, once about as many tasks have ended as are
    under way. When the run ends, one line stays.

    What is printed in the meantime appears above the table.

    Args:
        total: The number of tasks, where it is known.
        console: Where to display it; by default on stderr.

    Example:
        async for trajectory in generate_trajectories(tasks, ..., progress=LiveTable()):
            ...
    """

    def __init__(self, total: int | None = None, *, console: Console | None = None) -> None:
        super().__init__(total=total)
        self._console = console or Console(stderr=True)
        self._table: RunTable | None = None
        self._screen: _Screen | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Display the table, and keep it up to date on the running event loop."""
        self._table = self._table or RunTable(self)
        self._screen = _screen_on(self._console)
        self._draw(self._table, self._screen, asyncio.get_running_loop())

    def end(self) -> None:
        """Remove the table, and print what was done in a line."""
        if self._timer is not None:
            self._timer.cancel()
        if self._screen is None or self._table is None:
            return
        screen, self._screen = self._screen, None
        try:
            screen.close(self._table)
        except Exception:  # The terminal may be gone. That is no reason to fail a run.
            logger.exception("The table of the run could not be closed")

    def _draw(self, table: RunTable, screen: "_Screen", loop: asyncio.AbstractEventLoop) -> None:
        try:
            screen.draw(table)
        except Exception:
            logger.exception("The table of the run could not be drawn, and is not drawn again")
            return
        self._timer = loop.call_later(screen.seconds, self._draw, table, screen, loop)


class _Screen(Protocol):
    """Where the table is displayed."""

    seconds: float
    """From one drawing to the next."""

    def draw(self, table: RunTable) -> None: ...

    def close(self, table: RunTable) -> None: ...


def _screen_on(console: Console) -> _Screen:
    if console.is_jupyter:
        return _Notebook()
    if console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf"):
        return _Terminal(console)
    return _Lines(console)


class _Terminal:
    seconds = 0.25

    def __init__(self, console: Console) -> None:
        self._console = console
        self._size = console.size
        streams = sys.stdout, sys.stderr
        # What is printed into a file or a pipe stays there.
        self._live = Live(
            console=console,
            transient=True,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._live.start()
        self._handlers = ExitStack()
        for handler in (*logging.root.handlers, *logging.getLogger("collab_agents").handlers):
            if isinstance(handler, logging.StreamHandler) and handler.stream in streams:
                self._handlers.callback(handler.setStream, handler.stream)
                handler.setStream((sys.stdout, sys.stderr)[streams.index(handler.stream)])

    def draw(self, table: RunTable) -> None:
        size = self._console.size
        if size.width < self._size.width or size.height < self._size.height:
            self._console.clear()  # The terminal has wrapped the lines of the table: nobody knows how many there are.
        self._size = size
        # One column, since a terminal may take a character for wider than it is, and the line on which Live ends.
        self._live.update(table.draw(size.width - 1, size.height - 2), refresh=True)

    def close(self, table: RunTable) -> None:
        self._handlers.close()
        self._live.stop()
        self._console.print(table.line(), soft_wrap=True)


class _Notebook:
    seconds = 1.0

    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, table: RunTable) -> None:
        page = Console(file=io.StringIO(), width=_NOTEBOOK[0], color_system=None, force_jupyter=False)
        with page.capture() as captured:
            page.print(table.draw(*_NOTEBOOK))
        self._show(captured.get())

    def close(self, table: RunTable) -> None:
        self._show(table.line())

    def _show(self, text: str) -> None:
        from IPython.display import DisplayHandle

        shown = {"text/plain": text}
        if self._handle is None:
            self._handle = DisplayHandle()  # type: ignore[no-untyped-call]
            self._handle.display(shown, raw=True)
        else:
            self._handle.update(shown, raw=True)


class _Lines:
    seconds = 5.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = False

    def draw(self, table: RunTable) -> None:
        if self._begun:
            left = table.time_left()
            self._console.print(f"{table.line()}{f'  {left}' if left else ''}", soft_wrap=True)
        self._begun = True

    def close(self, table: RunTable) -> None:
        self._console.print(table.line(), soft_wrap=True)
