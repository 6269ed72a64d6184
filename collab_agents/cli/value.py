"""`train value`: fit a value model, and say how good it is."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from collab_agents import training
from collab_agents.value import ValueRecord


def train_value(runs: Sequence[str], out: Path, *, model: str, layers: int | None, fine_tune: bool) -> None:
    console = Console(highlight=False)
    with Progress(console=console, transient=True) as bar:
        reading = bar.add_task("reading replies")
        about = training.train_value(
            runs,
            out,
            model=model,
            layers=layers,
            fine_tune=fine_tune,
            progress=lambda done, total: bar.update(reading, completed=done, total=total),
        )
    console.print(report(about), soft_wrap=True)
    console.print(f"The value model is in {out}: use it as lookahead: {{value: {out}}} on other tasks.", soft_wrap=True)


def report(about: ValueRecord) -> str:
    """Return how good a value model is on tasks that it did not learn from, in two sentences."""
    begin = f"Learned from {about.candidates} candidates in {about.turns} turns of {len(about.tasks)} tasks."
    if about.explained <= 0:
        return f"{begin} On tasks that it did not see, it explains nothing: it is of no use."
    worth = "" if about.worth is None else f", as much as the mean of {about.worth:.2g} futures"
    share = min(about.explained, 1.0)
    return f"{begin} On tasks that it did not see, it explains {share:.0%} of the variance between candidates{worth}."
