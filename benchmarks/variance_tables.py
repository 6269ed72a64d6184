"""The tables of benchmarks/variance.py, from the file that it writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import anova
from benchmarks.anova import Array, Estimate, estimates

SIZES = (3, 6)
"""Numbers of futures whose mean is looked at."""


def show(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    console = Console(width=170)
    for name, show_one in SHOW.items():
        design = found["designs"].get(name)
        if not design:
            continue
        complete = len(stacked(design))
        if complete:
            show_one(found, console)
        calls = sum(design["calls"].values())
        console.print(
            f"{name}: {complete} of {len(design['tasks'])} tasks complete, {design['futures']} futures, {calls} calls, "
            f"{design['seconds']} s"
        )
        for reason, times in sorted(design["failures"].items(), key=lambda pair: -pair[1])[:5]:
            console.print(f"  {times} x {reason}", markup=False)
        console.print()


def stacked(design: dict[str, Any], score: str = "reward") -> dict[str, Array]:
    """Return by task a score as an array by candidate and index, for tasks where every future has a reward."""
    return {
        task: np.array(scores[score], dtype=float)
        for task, scores in design["tasks"].items()
        if "reward" in scores and np.isfinite(np.array(scores["reward"], dtype=float)).all()
    }


def by_habit(found: dict[str, Any], rewards: dict[str, Array]) -> dict[str, list[Array]]:
    """Return the rewards of all tasks, and of those whose personas slip often or not."""
    slips = {task: found["turns"][task]["slips"] for task in rewards}
    return {
        "all": list(rewards.values()),
        "personas of the recipe": [values for task, values in rewards.items() if not slips[task]],
        "personas that slip": [values for task, values in rewards.items() if slips[task]],
    }


def table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place else "left")
    return made


def shown(found: Estimate, digits: int = 2) -> str:
    value, low, high = (f"{one:.{digits}f}" for one in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"


def thousandths(found: Estimate) -> str:
    return shown(Estimate(*(1000 * one for one in (found.value, found.low, found.high))))


def share(found: Estimate) -> str:
    value, low, high = (f"{one:.0%}" for one in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"


def show_crossed(found: dict[str, Any], console: Console) -> None:
    made = table(
        "crossed: the variance of a future's reward within a candidate, and whose seed it comes from",
        *("tasks", "number", "variance x 1000", "user", "assistant", "both", "correlation of candidates in a cell"),
    )
    for name, rewards in by_habit(found, stacked(found["designs"]["crossed"])).items():
        if rewards:
            rows = [anova.crossed(one) for one in rewards]
            *parts, user, assistant, both, same = estimates(rows, anova.crossed_results)
            total = 1000 * sum(part.value for part in parts)
            made.add_row(name, f"{len(rewards)}", f"{total:.2f}", *map(share, (user, assistant, both)), shown(same))
    console.print(made)
    console.print(
        "Spreading the user's draws better (dealt slips, antithetic agendas) saves at most the user's share, as the "
        "assistant's draws still differ\nbetween futures. Common random numbers take the correlation in a cell off the "
        "variance of the difference of two candidates."
    )


def show_cooler(found: dict[str, Any], console: Console) -> None:
    _, count, futures = found["settings"]["cooler"]
    temperatures = found["settings"]["temperatures"]
    rewards = list(stacked(found["designs"]["cooler"]).values())
    coverage = list(stacked(found["designs"]["cooler"], "fact_coverage").values())
    truth = [values[:, :count] for values in rewards]
    warm = temperatures[0]
    variances = table(
        f"cooler: {len(rewards)} tasks, {futures} futures a candidate at each temperature",
        *("temperature", "within x 1000", "between x 1000", "reliability of 1", "of 3", "of 6", "reward", "facts"),
    )
    rankings = table(
        f"cooler: correlation of candidates' means of {futures} with those of {count} others at {warm}",
        *("temperature", "as they are", "without their noise"),
    )
    choices = table(
        f"cooler: the choice by k futures, whose truth is {count} others at {warm}",
        *("temperature", "k", "picks the best", "regret x 1000", "gain over a random choice x 1000"),
        f"gain minus that at {warm} x 1000",
    )
    gains: dict[int, list[Array]] = {}
    for place, temperature in enumerate(temperatures):
        cut = slice(count + place * futures, count + (place + 1) * futures)
        pairs = [(values[:, cut], true) for values, true in zip(rewards, truth, strict=True)]
        between, within, *reliabilities, raw, corrected = estimates(
            [anova.agreement(*pair) for pair in pairs], anova.agreement_results
        )
        means = (np.mean([values[:, cut] for values in kind]) for kind in (rewards, coverage))
        variances.add_row(
            f"{temperature:g}",
            *map(thousandths, (within, between)),
            *map(shown, reliabilities),
            *(f"{mean:.3f}" for mean in means),
        )
        rankings.add_row(f"{temperature:g}", shown(raw), shown(corrected))
        for k in [k for k in (1, 2, 3, 6) if k <= futures]:
            rows = [anova.picks(*pair, k) for pair in pairs]
            best, regret, gain = estimates(rows, anova.mean_of)
            differences = zip(rows, gains.setdefault(k, rows), strict=True)
            (more,) = estimates([np.array([own[2] - other[2], 1]) for own, other in differences], anova.mean_of)
            versus = [thousandths(more)] if place else []
            choices.add_row(f"{temperature:g}", f"{k}", shown(best), *map(thousandths, (regret, gain)), *versus)
    for made in (variances, rankings, choices):
        console.print(made)


def show_dealt(found: dict[str, Any], console: Console) -> None:
    rewards = stacked(found["designs"]["dealt"])
    rows = [sum((anova.one_way(each) for each in values), np.zeros(5)) for values in rewards.values()]
    personas = next(iter(rewards.values())).shape[1]
    between, within, *ratios = estimates(rows, anova.dealt_results(personas, SIZES))
    made = table(
        f"dealt: {len(rewards)} tasks, {personas} personas",
        *("between personas x 1000", "within x 1000"),
        *(f"variance of the mean of {k}, dealt / drawn" for k in SIZES),
    )
    made.add_row(*map(thousandths, (between, within)), *map(shown, ratios))
    console.print(made)


def show_antithetic(found: dict[str, Any], console: Console) -> None:
    made = table(
        "antithetic: pairs of futures with mirrored users",
        *("tasks", "number", "variance x 1000", "correlation in a pair", "variance of its mean / of two independent"),
    )
    for name, rewards in by_habit(found, stacked(found["designs"]["antithetic"])).items():
        if rewards:
            variance, *rest = estimates([anova.paired(one) for one in rewards], anova.paired_results)
            made.add_row(name, f"{len(rewards)}", thousandths(variance), *map(shown, rest))
    console.print(made)


def show_judged(found: dict[str, Any], console: Console) -> None:
    design = found["designs"]["judged"]
    by_sample = [stacked(design, f"verdict {sample}") for sample in range(found["settings"]["judged"][2])]
    verdicts = [np.stack([each[task] for each in by_sample], axis=-1) for task in by_sample[0]]
    given = np.concatenate([each[np.isfinite(each)] for each in verdicts])
    if not given.size:
        console.print("judged: no verdict was usable.")
        return
    rows = [anova.nested(each) for each in verdicts]
    candidates, futures, noise, one, six, usable = estimates(rows, anova.nested_results)
    made = table(
        f"judged: verdicts on interactivity, {len(verdicts)} tasks",
        *("between candidates x 1000", "between futures x 1000", "between verdicts x 1000"),
        *("reliability of 1 future", "of 6", "usable verdicts"),
    )
    made.add_row(*map(thousandths, (candidates, futures, noise)), shown(one), shown(six), share(usable))
    console.print(made)
    console.print(_split_of_calls(design, len(by_sample), futures.value, noise.value))
    common = ", ".join(f"{value:g} ({times / len(given):.0%})" for value, times in _most_common(given))
    signal = "above 0: they tell candidates apart." if candidates.low > 0 else "not above 0: no signal was found."
    console.print(f"Most common verdicts: {common}. The interval of the variance between candidates is {signal}")


def _split_of_calls(design: dict[str, Any], samples: int, futures: float, noise: float) -> str:
    asked = sum(calls for role, calls in design["calls"].items() if role.startswith("judge "))
    per_future = design["calls"]["assistant"] / design["futures"]
    per_verdict = asked / (design["futures"] * samples)
    optimum, best, saved = anova.best_samples(futures, noise, per_future, per_verdict)
    return (
        f"A future takes {per_future:.2f} calls, a verdict {per_verdict:.2f}. The best number of verdicts is "
        f"{optimum:.2f}, of 1 to 10 {best}, which saves {saved:.0%} of the calls against one."
    )


def _most_common(values: Array) -> list[tuple[float, int]]:
    kinds, times = np.unique(values, return_counts=True)
    return [(float(kinds[place]), int(times[place])) for place in np.argsort(-times)[:5]]


SHOW = {
    "crossed": show_crossed,
    "cooler": show_cooler,
    "dealt": show_dealt,
    "antithetic": show_antithetic,
    "judged": show_judged,
}
