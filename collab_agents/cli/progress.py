"""Words about a run that several commands print."""

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.text import Text

from collab_agents._internal.addresses import spelled
from collab_agents._internal.text import harmless
from collab_agents.trajectories import Failure

LOADING = "loading the models ..."
"""Shown on a terminal while a command loads and checks its models."""


def print_failures(console: Console, failures: list[Failure], where: str | Path) -> None:
    for reason, count in Counter(failure.error for failure in failures).most_common(3):
        console.print(Text(harmless(f"{count} failed: {reason}"), style="red"), soft_wrap=True)
    if failures:
        console.print(Text(f"All failures are in {spelled(where)}; --resume retries them."), soft_wrap=True)
