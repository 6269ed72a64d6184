"""What a run's page and report say of the whole run."""

import json
from collections import defaultdict
from typing import Any

from collab_agents._internal.addresses import place_at
from collab_agents.runs.directory import read_failures
from collab_agents.runs.elsewhere import read_json
from collab_agents.trajectories import Failure
from collab_agents.variance import Reliability
from collab_agents.view.table import RunTable

_BINS = 24


def summary_of(table: RunTable, found: Reliability | None) -> dict[str, Any]:
    """Return what a run's page shows of its trajectories and of how reliable their rewards are."""
    roles = table.usage.by_role()
    histograms = {name: table.histogram(name, _BINS) for name in ("reward", *table.judges)}
    return {
        "table": table,
        "reading": reading(table),
        "problems": table.problems,
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


def kept_in(path: str) -> dict[str, Any]:
    """Return what else a run's folder says: its configuration and failures."""
    place = place_at(path)
    run = read_json(place / "run.json") if (place / "run.json").exists() else {}
    failures: list[Failure] = read_failures(path) if run else []
    by_reason = defaultdict(list)
    for failure in failures:
        by_reason[failure.error].append(failure.task.id)
    config = run.get("config")
    return {
        "config": json.dumps(config, indent=2, ensure_ascii=False) if config else None,
        "failures": failures,
        "reasons": sorted(by_reason.items(), key=lambda one: -len(one[1])),
    }


def reading(table: RunTable) -> float | None:
    """Return the part of the trajectories that was read, or None if all were."""
    return None if table.read_bytes >= table.total_bytes else table.read_bytes / table.total_bytes
