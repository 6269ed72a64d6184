"""Plot a training's logs, and the rounds of a loop."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from collab_agents.training.rounds import Rounds

_SHOWN = (
    "loss", "heldout/reward", "reward", "judges/", "kl", "entropy", "value", "explained", "rewards/",
    "completions/mean_length", "objective/", "mean_token_accuracy", "grad_norm", "learning_rate",
)  # fmt: skip
_MOST = 12


def plot_curves(history: Sequence[Mapping[str, float]], file: Path) -> None:
    """Plot each logged measure over the steps, if anything was logged.

    The "eval_" curve of a measure is in the same panel, and so is the interval of the held-out reward.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for entry in history:
        for key, value in entry.items():
            if isinstance(value, int | float) and "step" in entry and key.removeprefix("eval_").startswith(_SHOWN):
                series.setdefault(key, []).append((entry["step"], value))
    names = [key for key in series if not key.startswith("eval_") and len(series[key]) > 1]
    names = [key for key in names if not key.startswith("heldout/reward/")]
    names.sort(key=lambda key: next(i for i, prefix in enumerate(_SHOWN) if key.startswith(prefix)))
    names = names[:_MOST]
    if not names:
        return
    with _panels(names, "step", file) as panels:
        for axis, name in zip(panels, names, strict=True):
            for key, label in ((name, "train"), (f"eval_{name}", "eval")):
                if key in series:
                    axis.plot(*zip(*series[key], strict=True), label=label)
            if f"{name}/low" in series:
                steps, low = zip(*series[f"{name}/low"], strict=True)
                axis.fill_between(steps, low, [high for _, high in series[f"{name}/high"]], alpha=0.2)
            if f"eval_{name}" in series:
                axis.legend()


def plot_rounds(record: Rounds, file: Path) -> None:
    """Plot each measure of the held-out conversations over the rounds, with its 95% interval, by set of tasks."""
    rounds = [one for one in record.rounds if one.sets]
    names = list(dict.fromkeys(name for one in rounds for held in one.sets.values() for name in held.measures))
    names = sorted(names, key=lambda name: name != "reward")[:_MOST]
    sets = list(dict.fromkeys(name for one in rounds for name in one.sets))
    with _panels([name.replace("_", " ") for name in names], "round", file) as panels:
        for axis, name in zip(panels, names, strict=True):
            for held in sets:
                # Sets may have different judges.
                found = [(one.number, one.sets[held].measures.get(name)) for one in rounds if held in one.sets]
                shown = [
                    (number, one.value, one.low, one.high) for number, one in found if one and one.value is not None
                ]
                if shown:
                    numbers, values, low, high = zip(*shown, strict=True)
                    (line,) = axis.plot(numbers, values, marker="o", label=held)
                    axis.fill_between(numbers, low, high, alpha=0.2, color=line.get_color())
            axis.set_xticks([one.number for one in rounds])
            if len(sets) > 1:
                axis.legend()


@contextmanager
def _panels(titles: Sequence[str], below: str, file: Path) -> Iterator[list[Axes]]:
    """Yield an empty panel for each title, and write what was drawn to the file."""
    columns = min(3, len(titles))
    rows = -(-len(titles) // columns)
    width, height = 4.5 * columns, 3.0 * rows
    figure = Figure(figsize=(width, height))
    # Margins in inches, since matplotlib's own layouts draw everything once more to measure it.
    room = {"left": 0.7 / width, "right": 1 - 0.2 / width, "bottom": 0.5 / height, "top": 1 - 0.4 / height}
    axes = list(figure.subplots(rows, columns, squeeze=False, gridspec_kw={**room, "wspace": 0.25, "hspace": 0.5}).flat)
    for axis in axes[len(titles) :]:
        axis.remove()
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title)
        axis.set_xlabel(below)
        axis.locator_params(nbins=6)
        axis.grid(alpha=0.3)
    yield axes[: len(titles)]
    figure.savefig(file, dpi=100)
