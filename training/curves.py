"""Plot a training's logs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

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
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.5 * columns, 3 * rows))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        for key, label in ((name, "train"), (f"eval_{name}", "eval")):
            if key in series:
                axis.plot(*zip(*series[key], strict=True), label=label)
        if f"{name}/low" in series:
            steps, low = zip(*series[f"{name}/low"], strict=True)
            axis.fill_between(steps, low, [high for _, high in series[f"{name}/high"]], alpha=0.2)
        axis.set_title(name)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if f"eval_{name}" in series:
            axis.legend()
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=100)
