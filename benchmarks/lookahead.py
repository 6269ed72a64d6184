"""The quality of a turn's choice against the futures that it took, for several ways to allocate futures.

    python -m benchmarks.lookahead                                   # rewards whose truth is known
    python -m benchmarks.lookahead --pool runs/pool                  # stored turns of at least 8 futures a candidate
    python -m benchmarks.lookahead --pool runs/pool --value runs/value --picture docs/lookahead.svg

`make bench-lookahead` plays such a pool with the embedded model first. A rule sees the futures of a candidate one after
another, in a random order. The best candidate is the one with the highest true reward or, in a pool, the highest mean
of all its futures. Regret is how much lower the chosen candidate's is. Intervals are 95% bootstrap intervals over
turns. A value model is that of --value, or for synthetic turns one that explains half of the variance between
candidates.
"""

import argparse
import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from collab_agents import Lookahead, read_trajectories
from collab_agents._internal.bootstrap import interval, resampled_sums
from collab_agents.allocation import best_candidate, further_futures
from collab_agents.lookahead import Components
from collab_agents.trajectories import Expected
from collab_agents.value import LearnedValue, load_value
from collab_agents.variance import ReliabilityTally, best_shares, likely_components, shrunk_means, true_rewards

Array = NDArray[np.float64]
Numbers = list[int]
Expectations = list[Expected] | None
MOST = 16
GAINS = (1e-3, 5e-4, 2.5e-4, 1.25e-4, 6e-5)
SYNTHETIC = Components(between=0.0013, within=0.0113)
"""Those of the embedded model on the offline tasks, with 4 candidates and futures of 2 exchanges."""


@dataclass
class Turns:
    """Turns to choose in, several times: futures of shape (repeats x turns, candidates, futures), and the truth."""

    name: str
    repeats: int
    futures: Array
    true: Array
    components: Components
    expected: list[list[Expected]] | None
    """What a value model expects of the candidates of each turn; None without one."""


def synthetic(count: int, candidates: int = 4) -> Turns:
    random = np.random.default_rng(0)
    unexplained = SYNTHETIC.between / 2
    means = random.normal(scale=unexplained**0.5, size=(count, candidates))
    true = means + random.normal(scale=unexplained**0.5, size=(count, candidates))
    noise = random.normal(scale=SYNTHETIC.within**0.5, size=(count, candidates, 2 * MOST))
    expected = [[Expected(mean=one, variance=unexplained) for one in turn] for turn in means]
    return Turns(f"{count} synthetic turns", 1, true[..., None] + noise, true, SYNTHETIC, expected)


def pool(run: Path, repeats: int, value: LearnedValue | None) -> Turns:
    """Every turn of a run, in several orders of its futures."""
    random = np.random.default_rng(0)
    tally = ReliabilityTally()
    turns: list[list[list[float]]] = []
    expected: list[list[Expected]] = []
    for one in read_trajectories(run):
        tally.add(one.task.id, one.turns, one.usage.calls)
        if value is not None and (problem := value.problem_with(one.task)):
            raise SystemExit(f"{one.task.id}: {problem}")
        for turn in one.turns:
            turns.append([candidate.rewards() for candidate in turn.candidates])
            if value is not None:
                replies = [candidate.messages for candidate in turn.candidates]
                expected.append(asyncio.run(value.expect(turn.prompt, replies)))
    components = tally.components()
    fewest = min(len(each) for turn in turns for each in turn)
    assert components is not None
    stored = np.array([[each[:fewest] for each in turn] for turn in turns])
    shuffled = np.concatenate([random.permuted(stored, axis=2) for _ in range(repeats)])
    true = np.tile(stored.mean(axis=2), (repeats, 1))
    name = f"{len(turns)} turns of {run}, {fewest} futures a candidate"
    return Turns(name, repeats, shuffled, true, components, expected * repeats or None)


Rule = Callable[[Array, Components, Expectations], Numbers]
"""Returns how many futures of each candidate it looked at, of futures of shape (candidates, futures)."""


def uniform(futures: int) -> Rule:
    return lambda turn, components, expected: [futures] * len(turn)


def halving(futures: int) -> Rule:
    """Sequential halving (Karnin, Koren and Somekh, 2013) with so many futures a candidate in all."""

    def rule(turn: Array, components: Components, expected: Expectations) -> Numbers:
        numbers = [0] * len(turn)
        left = list(range(len(turn)))
        rounds = max(1, math.ceil(math.log2(len(turn))))
        for _ in range(rounds):
            for one in left:
                numbers[one] += max(1, futures * len(turn) // rounds // len(left))
            means = [turn[one, : numbers[one]].mean() for one in left]
            left = [left[place] for place in np.argsort(means)[::-1][: max(1, math.ceil(len(left) / 2))]]
        return [min(number, turn.shape[1]) for number in numbers]

    return rule


def top_two(confidence: float) -> Rule:
    """Two futures at a time: for the leader, and for the likeliest of the others (Russo, 2020)."""

    def rule(turn: Array, components: Components, expected: Expectations) -> Numbers:
        numbers = [1] * len(turn)
        while True:
            means = [float(turn[one, :number].mean()) for one, number in enumerate(numbers)]
            shares = best_shares(true_rewards(means, numbers, components))
            leader = int(np.argmax(shrunk_means(means, numbers, components)))
            open_ones = [one for one, number in enumerate(numbers) if number < MOST]
            if shares[leader] >= confidence or not open_ones:
                return numbers
            others = sorted((one for one in open_ones if one != leader), key=lambda one: -shares[one])
            for one in [*others[:1], *(one for one in open_ones if one == leader)]:
                numbers[one] += 1

    return rule


def adaptive(first: int, gain: float, *, own: bool = False) -> Rule:
    """The library's rule; `own`: with the variances that one turn shows, not those of the run."""
    given = SYNTHETIC if first == 1 else None  # Which ones does not matter: the rule below passes its own.
    look = Lookahead(
        futures=first, allocation="adaptive", max_futures=MOST, confidence=0.95, minimum_gain=gain, components=given
    )

    def rule(turn: Array, components: Components, expected: Expectations) -> Numbers:
        numbers = [first] * len(turn)
        likely = likely_components([turn[:, :first].tolist()]) if own else components
        while any(more := further_futures(_seen(turn, numbers), likely, look, expected)):
            numbers = [number + extra for number, extra in zip(numbers, more, strict=True)]
        return numbers

    return rule


def _seen(turn: Array, numbers: Sequence[int]) -> list[list[float]]:
    return [turn[one, :number].tolist() for one, number in enumerate(numbers)]


@dataclass
class Point:
    """A rule's result: the mean over turns, each with its interval."""

    futures: float
    picked: tuple[float, float, float]
    regret: tuple[float, float, float]


def measure(rule: Rule, turns: Turns, *, with_value: bool) -> Point:
    rows = []
    every = turns.expected if with_value and turns.expected else [None] * len(turns.true)
    for turn, true, expected in zip(turns.futures, turns.true, every, strict=True):
        numbers = rule(turn, turns.components, expected)
        chosen = _chosen(turn, numbers, turns.components, expected)
        rows.append([np.mean(numbers), float(chosen == true.argmax()), true.max() - true[chosen]])
    found = np.array(rows).reshape(turns.repeats, -1, 3).mean(axis=0)
    drawn = resampled_sums(found, seed=0, resamples=2000) / len(found)
    futures, picked, regret = found.mean(axis=0)
    ends = [interval(drawn[:, column]) or (math.nan, math.nan) for column in (1, 2)]
    return Point(futures, (picked, *ends[0]), (regret, *ends[1]))


def _chosen(turn: Array, numbers: Numbers, components: Components, expected: Expectations) -> int:
    if not any(numbers):
        assert expected
        return max(range(len(turn)), key=lambda one: expected[one].mean)
    chosen = best_candidate(_seen(turn, numbers), components, expected)
    assert chosen is not None
    return chosen


@dataclass
class Curve:
    """A rule at several settings, by what they are called."""

    rules: list[tuple[str, Rule]]
    with_value: bool = False


UNIFORM = (1, 2, 3, 4, 6, 8, 12, 16)
CURVES = {
    "uniform": Curve([(f"{number}", uniform(number)) for number in UNIFORM]),
    "halving": Curve([(f"{number}", halving(number)) for number in (2, 4, 6, 8)]),
    "top-two": Curve([(f"confidence {sure:g}", top_two(sure)) for sure in (0.4, 0.5, 0.6, 0.7)]),
    "adaptive": Curve([(f"first 1, gain {gain:g}", adaptive(1, gain)) for gain in GAINS]),
    "adaptive, first 2": Curve([(f"first 2, gain {gain:g}", adaptive(2, gain)) for gain in GAINS]),
    "adaptive, variances of the turn": Curve(
        [(f"first 2, gain {gain:g}", adaptive(2, gain, own=True)) for gain in GAINS]
    ),
    "uniform, value": Curve([(f"{number}", uniform(number)) for number in (0, *UNIFORM)], with_value=True),
    "adaptive, value": Curve([(f"first 1, gain {gain:g}", adaptive(1, gain)) for gain in GAINS], with_value=True),
    "adaptive, first 2, value": Curve(
        [(f"first 2, gain {gain:g}", adaptive(2, gain)) for gain in GAINS], with_value=True
    ),
}


def uniform_of(regret: float, points: Sequence[Point]) -> float:
    """Return how many futures uniform allocation takes for this regret, between the numbers that were measured."""
    known = np.log(sorted((one.regret[0], one.futures) for one in points))
    return math.exp(float(np.interp(math.log(regret), known[:, 0], known[:, 1])))


def results(turns: Turns) -> Iterator[tuple[str, str, Point, float]]:
    uniforms: list[Point] = []
    for name, curve in CURVES.items():
        if curve.with_value and turns.expected is None:
            continue
        for setting, rule in curve.rules:
            point = measure(rule, turns, with_value=curve.with_value)
            if name == "uniform":
                uniforms.append(point)
            yield name, setting, point, 0.0 if name == "uniform" else uniform_of(point.regret[0], uniforms)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pool", type=Path, help="a run whose turns have many futures a candidate")
    parser.add_argument("--value", type=Path, help="a value model that learned from other tasks than the pool's")
    parser.add_argument("--turns", type=int, default=2000, help="how many synthetic turns")
    parser.add_argument("--repeats", type=int, default=20, help="orders of the futures of each turn of the pool")
    parser.add_argument("--picture", type=Path, help="where to draw the curves")
    given = parser.parse_args()
    value = load_value(given.value) if given.value else None
    turns = pool(given.pool, given.repeats, value) if given.pool else synthetic(given.turns)
    found = list(results(turns))
    components = turns.components
    title = f"{turns.name}; variance between candidates {components.between:.4g}, within {components.within:.4g}"
    table = Table(title=title, title_justify="left")
    for column in ("rule", "setting", "futures", "picks the best", "regret", "uniform takes", "saved"):
        table.add_column(column, justify="left" if column in ("rule", "setting") else "right")
    for curve, setting, point, same in found:
        saved = f"{1 - point.futures / same:.0%}" if same else ""
        table.add_row(
            curve,
            setting,
            f"{point.futures:.2f}",
            _range(point.picked, 2),
            _range(point.regret, 4),
            f"{same:.2f}" if same else "",
            saved,
        )
    Console(width=140).print(table)
    if given.picture:
        draw(found, turns.name, given.picture)


def _range(found: tuple[float, float, float], digits: int) -> str:
    value, low, high = (f"{one:.{digits}f}" for one in found)
    return f"{value} ({low} to {high})"


def draw(found: Sequence[tuple[str, str, Point, float]], title: str, picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for curve in CURVES:
        points = [point for name, _, point, _ in found if name == curve and point.futures]
        if not points:
            continue
        points.sort(key=lambda one: one.futures)
        axes.plot(
            [one.futures for one in points], [one.regret[0] for one in points], marker="o", markersize=3, label=curve
        )
    axes.set(xscale="log", xlabel="futures a candidate (mean)", ylabel="regret of the choice", title=title)
    axes.set_xticks([1, 2, 4, 8, 16], labels=["1", "2", "4", "8", "16"])
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(picture)


if __name__ == "__main__":
    main()
