"""What a run's page and report say of the whole run."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from collab_agents.runs.directory import is_in_use
from collab_agents.runs.table import time_left
from collab_agents.variance import Reliability
from collab_agents.view.table import RunTable

_BINS = 24


def summary_of(table: RunTable, found: Reliability | None) -> dict[str, Any]:
    """Return what a run's page shows of its trajectories and failures, and of how reliable rewards are."""
    roles = table.usage.by_role()
    histograms = {name: table.histogram(name, _BINS) for name in ("reward", *table.judges)}
    return {
        "table": table,
        "reading": reading(table),
        "problems": table.problems,
        "reasons": table.reasons(),
        "usage": table.usage,
        "histograms": histograms,
        "reliability": found if found and found.turns else None,
        "reliability_rows": _reliabilities(found) if found else [],
        "roles": roles,
        "role_bars": [(role, counts.input_tokens + counts.output_tokens) for role, counts in roles.items()],
    }


def _reliabilities(found: Reliability) -> list[tuple[str, float, float | None, float | None]]:
    rows = {"reward": found.reward, **found.judges}
    return [(name, one.value, one.low, one.high) for name, one in rows.items() if one.value is not None]


def config_of(run: Mapping[str, Any]) -> str | None:
    """Return the configuration in a run.json, as text."""
    config = run.get("config")
    return json.dumps(config, indent=2, ensure_ascii=False) if config else None


def standing_of(path: str, run: Mapping[str, Any], table: RunTable) -> dict[str, Any]:
    """Return how far a run is, by its run.json: the number of its tasks, if it is known, and the time left in words."""
    tasks, attempt = run.get("tasks"), run.get("attempt")
    under_way, left = False, ""
    if attempt is not None and tasks is not None and is_in_use(path):
        under_way = True
        # Only new failures are of this attempt: it plays the tasks again that failed before.
        failed = max(0, table.failed - attempt["failed"])
        ended = table.count - attempt["finished"] + failed
        seconds = (datetime.now(UTC) - datetime.fromisoformat(attempt["began"])).total_seconds()
        left = time_left(tasks - table.count - failed, ended, seconds)
    return {"tasks": tasks, "under_way": under_way, "left": left}


def reading(table: RunTable) -> float | None:
    """Return the part of the trajectories that was read, or None if all were."""
    return None if table.read_bytes >= table.total_bytes else table.read_bytes / table.total_bytes
