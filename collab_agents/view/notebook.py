"""What notebooks show of trajectories."""

from collab_agents.trajectories import Trajectory, Turn
from collab_agents.view.html import asset, render
from collab_agents.view.summary import summary_of
from collab_agents.view.table import RunTable


def trajectory_html(trajectory: Trajectory) -> str:
    """Return a trajectory as HTML that folds and unfolds."""
    return _fragment("notebook_trajectory.html", trajectory=trajectory)


def turn_html(turn: Turn) -> str:
    """Return a turn as HTML."""
    return _fragment("notebook_turn.html", turn=turn)


def table_html(table: RunTable) -> str:
    """Return a run's summary as HTML."""
    return _fragment("run_part.html", **summary_of(table, table.reliability()))


def _fragment(template: str, **values: object) -> str:
    return f'<div class="collab"><style>{asset("style.css")}</style>{render(template, **values)}</div>'
