from collections import Counter, defaultdict

from rich.console import Console
from rich.table import Table

from collab_agents.runs.directory import turns_in
from collab_agents.trajectories import Trajectory
from collab_agents.variance import Reliability, ReliabilityTally, ScoreReliability


class _Mean:
    """The mean of the values that are not None."""

    def __init__(self) -> None:
        self._total = 0.0
        self._count = 0

    def add(self, value: float | None) -> None:
        if value is not None:
            self._total += value
            self._count += 1

    @property
    def value(self) -> float | None:
        return self._total / self._count if self._count else None


class Summary:
    """Means over trajectories, without keeping the trajectories."""

    def __init__(self) -> None:
        self._count = 0
        self._reward = _Mean()
        self._scores: defaultdict[str, _Mean] = defaultdict(_Mean)
        self._exchanges = _Mean()
        self._gap = _Mean()
        self._stopped: Counter[str] = Counter()
        self._reliability = ReliabilityTally()
        self._futures = 0
        self._dropped: Counter[str] = Counter()
        self._dropped_futures = 0

    def add(self, trajectory: Trajectory) -> None:
        self._count += 1
        self._reward.add(trajectory.reward)
        for name, score in trajectory.scores.items():
            self._scores[name].add(score)
        self._exchanges.add(len(trajectory.turns) or turns_in(trajectory.messages))
        self._stopped[trajectory.stopped] += 1
        self._reliability.add(trajectory.task.id, trajectory.turns, trajectory.usage.calls)
        for turn in trajectory.turns:
            futures = [future for candidate in turn.candidates for future in candidate.futures]
            self._futures += len(futures)
            self._dropped_futures += sum(bool(future.dropped) for future in futures)
            self._dropped.update(kind for future in futures for kind in future.dropped)
            rewards = [one.reward for one in turn.candidates if one.reward is not None]
            if rewards:
                self._gap.add(max(rewards) - min(rewards))

    def print(self, console: Console, what: str) -> None:
        """Print the table and, if there are turns by lookahead, how reliable their rewards are."""
        found = self._reliability.result() if self._gap.value is not None else None
        console.print(self._table(what, found))
        if found is not None:
            console.print(found.advice, highlight=False)

    def _table(self, what: str, found: Reliability | None) -> Table:
        table = Table(title=f"{self._count} {what}")
        table.add_column("of a conversation")
        table.add_column("mean", justify="right")
        if found is not None:
            table.add_column("reliability", justify="right")
        table.add_row("reward", _number(self._reward.value), _reliability(found.reward if found else None))
        for name, score in self._scores.items():
            table.add_row(name, _number(score.value), _reliability(found.judges.get(name) if found else None))
        table.add_row("exchanges", _number(self._exchanges.value))
        table.add_row("ended by the user", _number(self._stopped["user"] / max(self._count, 1)))
        table.add_row("best minus worst candidate of a turn", _number(self._gap.value))
        if found is not None:
            table.add_row("probability that the chosen one is the best", _number(found.chosen_is_best))
        if self._dropped_futures:
            table.add_row("futures dropped for faults of the user", f"{self._dropped_futures} of {self._futures}")
            for kind, count in self._dropped.most_common():
                table.add_row(f"- {kind}", str(count))
        return table


def _reliability(found: ScoreReliability | None) -> str:
    return "" if found is None else _number(found.value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
