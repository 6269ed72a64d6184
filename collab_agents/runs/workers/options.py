from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt


class RayOptions(BaseModel):
    """How a run uses Ray: its cluster, and the worker processes in it.

    If Ray is initialized already, `address` and `runtime_env` are not used.

    Example:
        generate_trajectories(tasks, ..., ray=RayOptions(workers=8, resources={"CPU": 1, "GPU": 0.5}))
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str | None = None
    """The cluster's address; "auto" is the cluster that this machine belongs to. None starts Ray on this machine, and
    stops it at the end of the run."""
    workers: PositiveInt | None = None
    """Worker processes; by default as many as the cluster has resources for, but not more than tasks in progress."""
    resources: dict[str, NonNegativeFloat] = Field(default_factory=lambda: {"CPU": 1.0})
    """What each worker takes, by Ray's names: "CPU", "GPU" (fractions too), "memory" (bytes), or a custom resource."""
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    """Ray's runtime environment of the workers. Unless it says otherwise, the modules of the current folder that are
    imported already are sent along."""
    start_seconds: PositiveFloat = 300.0
    """How long to wait for a first worker, or for another one when all have died."""
