"""Show a run's progress while it runs."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from collab_agents._internal.addresses import spelled
from collab_agents._internal.text import harmless
from collab_agents.cli.costs import dollars
from collab_agents.runs import Progress
from collab_agents.trajectories import Failure

LOADING = "loading the models ..."
"""Shown on a terminal while a command loads and checks its models."""

PLAIN_SECONDS = 5.0


@asynccontextmanager
async def shown(console: Console, progress: Progress) -> AsyncIterator[None]:
    """Show a progress line, kept up to date on a terminal, printed regularly elsewhere, and once more at the end."""
    started = time.monotonic()
    showing = asyncio.create_task(_show(console, progress, started))
    try:
        yield
    finally:
        showing.cancel()
        with suppress(asyncio.CancelledError):
            await showing
    console.print(_line(progress, started), soft_wrap=True)


async def _show(console: Console, progress: Progress, started: float) -> None:
    if not console.is_terminal:
        while True:
            await asyncio.sleep(PLAIN_SECONDS)
            console.print(_line(progress, started), soft_wrap=True)
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while True:
            live.update(Text(_line(progress, started)), refresh=True)
            await asyncio.sleep(0.2)


def _line(progress: Progress, started: float) -> str:
    seconds = time.monotonic() - started
    usage = progress.usage
    spent = f"  dollars {dollars(usage)}" if usage.dollars else ""
    done = f"{progress.finished + progress.skipped}/{progress.total}"
    return (
        f"tasks {done} ({progress.running} under way, {progress.failed} failed)  turns {progress.turns}  "
        f"calls {usage.calls} ({usage.calls / max(seconds, 1e-3):.1f}/s)  "
        f"tokens {usage.input_tokens + usage.output_tokens:,}{spent}  {seconds:.0f} s"
    )


def print_failures(console: Console, failures: list[Failure], where: str | Path) -> None:
    for reason, count in Counter(failure.error for failure in failures).most_common(3):
        console.print(Text(harmless(f"{count} failed: {reason}"), style="red"), soft_wrap=True)
    if failures:
        console.print(Text(f"All failures are in {spelled(where)}; --resume retries them."), soft_wrap=True)
