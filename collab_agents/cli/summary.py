from collections import Counter

from rich.table import Table

from collab_agents.rewards import mean, mean_scores
from collab_agents.runs.directory import turns_in
from collab_agents.trajectories import Trajectory


class Summary:
    """Means over trajectories, without keeping the trajectories."""

    def __init__(self) -> None:
        self._rewards: list[float | None] = []
        self._scores: list[dict[str, float | None]] = []
        self._exchanges: list[float] = []
        self._gaps: list[float] = []
        self._stopped: Counter[str] = Counter()

    def add(self, trajectory: Trajectory) -> None:
        self._rewards.append(trajectory.reward)
        self._scores.append(trajectory.scores)
        self._exchanges.append(len(trajectory.turns) or turns_in(trajectory.messages))
        self._stopped[trajectory.stopped] += 1
        for turn in trajectory.turns:
            rewards = [one.reward for one in turn.candidates if one.reward is not None]
            if rewards:
                self._gaps.append(max(rewards) - min(rewards))

    def table(self, what: str) -> Table:
        table = Table(title=f"{len(self._rewards)} {what}")
        table.add_column("of a conversation")
        table.add_column("mean", justify="right")
        table.add_row("reward", _number(mean(self._rewards)))
        for name, value in mean_scores(self._scores).items():
            table.add_row(name, _number(value))
        table.add_row("exchanges", _number(mean(self._exchanges)))
        table.add_row("ended by the user", _number(self._stopped["user"] / max(len(self._rewards), 1)))
        table.add_row("best minus worst candidate of a turn", _number(mean(self._gaps)))
        return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
