"""`compact`: the trajectories of any runs, in a new run directory with few large parts."""

from pathlib import Path

from collab_agents._internal.addresses import spelled
from collab_agents.runs.compact import compact as make
from collab_agents.runs.parts import PartFormat


def compact(sources: list[str], out: Path, *, format: PartFormat, megabytes: float, private: bool) -> None:
    """Compact the runs, and say how many trajectories there are."""
    count = make(sources, out, format=format, megabytes=megabytes, private=private)
    print(f"{count} trajectories are in {spelled(out)}.")
