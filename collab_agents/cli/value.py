"""`train value`: fit a value model, and say how good it is."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from collab_agents.training import train_value as fit
from collab_agents.value import ValueRecord


def train_value(runs: Sequence[str], out: Path, *, model: str, layers: int | None, fine_tune: bool) -> None:
    console = Console(highlight=False)
    with Progress(console=console, transient=True) as bar:
        reading = bar.add_task("reading replies")
        about = fit(
            runs,
            out,
            model=model,
            layers=layers,
            fine_tune=fine_tune,
            progress=lambda done, total: bar.update(reading, completed=done, total=total),
        )
    console.print(report(about), soft_wrap=True)
    if about.explained_low > 0:
        console.print(f"Use it on other tasks: lookahead: {{value: {out}}}", soft_wrap=True)


def report(about: ValueRecord) -> str:
    """Return how good a value model is on tasks that it did not learn from, in two sentences."""
    others = (
        f", and its language model from pairs of other tasks, {len(about.tasks)} in all" if about.fine_tuned else ""
    )
    begin = f"Learned from {about.candidates} candidates in {about.turns} turns{others}."
    found = f"{about.explained:.0%} ({about.explained_low:.0%} to {about.explained_high:.0%})"
    if about.explained_low <= 0:
        return (
            f"{begin} On tasks that it did not see, it explains {found} of the variance between candidates, which "
            "cannot be told from nothing: learn from more tasks or more futures."
        )
    worth = "" if about.worth is None else f", as much as the mean of {about.worth:.2g} futures"
    return f"{begin} On tasks that it did not see, it explains {found} of the variance between candidates{worth}."
