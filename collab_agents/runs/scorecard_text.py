"""A scorecard in words: the cells of CollabLLM's table 1, and all of it as Markdown."""

from collab_agents.runs.scorecard import Difference, Estimate, Scorecard, SetScores

BRACKETS = "In brackets: 95% bootstrap intervals over tasks."
ARROWS = {"higher": "↑", "lower": "↓", None: ""}


def scorecard_markdown(scorecard: Scorecard, *, title: str = "Scorecard", level: int = 1) -> str:
    """Return a scorecard as Markdown with a table for each set of tasks. `level` is that of its title."""
    parts = [f"{'#' * level} {title}\n"]
    for one in scorecard.sets:
        header, rows = cells_of(one)
        lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
        table = "\n".join("| " + " | ".join(cell.replace("\n", "<br>") for cell in line) + " |" for line in lines)
        parts.append(f"{'#' * (level + 1)} {title_of(one)}\n\n{table}\n")
        parts.extend(f"{line}\n" for line in unscored_in(one))
    parts.append(f"{BRACKETS}\n")
    return "\n".join(parts)


def title_of(scores: SetScores) -> str:
    """Return the heading of a set of tasks."""
    seeds = f", {len(scores.seeds)} seeds" if len(scores.seeds) > 1 else ""
    return f"{scores.name}: {scores.tasks} tasks{seeds}"


def cells_of(scores: SetScores) -> tuple[list[str], list[list[str]]]:
    """Return a header and rows: one per assistant, baseline first, then the difference."""
    measures = list(scores.better)
    header = ["", *(f"{name.replace('_', ' ')} {ARROWS[scores.better[name]]}".strip() for name in measures)]
    rows = []
    for side in reversed(scores.sides):
        failed = f"\n({side.failed} failed)" if side.failed else ""
        rows.append([side.name + failed, *(_estimate(side.measures[name]) for name in measures)])
    if scores.difference is not None:
        rows.append(["difference", *(_estimate(scores.difference[name], sign="+") for name in measures)])
        rows.append(["rel. improvement", *(_improvement(scores.difference[name]) for name in measures)])
    return header, rows


def unscored_in(scores: SetScores) -> list[str]:
    """Return a line for each judge that could not score some conversations."""
    return [
        f"{side.name}: {judge} gave no score to {found.count} of {side.finished} conversations: {found.reason}"
        for side in scores.sides
        for judge, found in side.unscored.items()
    ]


def _estimate(estimate: Estimate, sign: str = "") -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "-"
    largest = max(abs(estimate.value), abs(estimate.low), abs(estimate.high))
    digits = 3 if largest < 1 else 2 if largest < 10 else 1 if largest < 100 else 0
    # Adding 0 turns -0 into 0.
    shown = [f"{round(one, digits) + 0.0:{sign}.{digits}f}" for one in (estimate.value, estimate.low, estimate.high)]
    return f"{shown[0]}\n[{shown[1]}, {shown[2]}]"


def _improvement(difference: Difference) -> str:
    return "-" if difference.improvement is None else f"{difference.improvement + 0.0:+.1%}"
