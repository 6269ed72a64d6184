"""A run in one HTML file, to be mailed, attached and opened without a server."""

import base64
import gzip
import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Literal

from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.runs.directory import read_run
from collab_agents.trajectories import opener
from collab_agents.variance import chosen_probabilities
from collab_agents.view.html import asset, render
from collab_agents.view.rows import Row, Wanted
from collab_agents.view.summary import config_of, summary_of
from collab_agents.view.table import RunTable

Choice = Literal["best", "worst", "spread"]

_ORDERS: dict[Choice, Wanted] = {
    "best": Wanted(sort="reward", descending=True),
    "worst": Wanted(sort="reward"),
    "spread": Wanted(sort="spread", descending=True),
}
_PAIRS = 50


def write_report(
    run: str | os.PathLike[str],
    out: Path,
    *,
    against: str | os.PathLike[str] | None = None,
    trajectories: int = 30,
    choose: Sequence[Choice] = ("best", "worst", "spread"),
    tasks: Sequence[str] = (),
    private: bool = True,
) -> None:
    """Write a run's summary and some of its trajectories to a file.

    Args:
        run: A run directory, its address, or a file of trajectories.
        out: The HTML file.
        against: Another run, whose tasks in common with the first are compared, the largest differences first.
        trajectories: How many are in the file, besides those of `tasks`.
        choose: Those with the highest reward, with the lowest, or with the largest difference between the candidates of
            a turn; in turn if there are several.
        tasks: The ids of further ones.
        private: Whether the file is readable by its owner only; otherwise the umask decides.

    Raises:
        ConfigError: For a task that the run does not have.
        RunDirectoryError: If there is no run, or the file cannot be written.
    """
    with RunTable(run) as table:
        _read(table)
        values = summary_of(table, table.reliability()) | {
            "config": config_of(read_run(run)),
            "name": Path(run).name,
            "pairs": [],
            "other": None,
        }
        values["rows"] = [
            (row, _packed(_tree(table, row.number))) for row in _chosen(table, trajectories, choose, tasks)
        ]
        if against is not None:
            with RunTable(against) as other:
                _read(other)
                values["other"] = Path(against).name
                values["pairs"] = list(_pairs(table, other, values["name"], values["other"]))
        style, script = asset("style.css"), asset("view.js") + asset("report.js")
        policy = (
            f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; "
            "form-action 'none'"
        )
        page = render("report.html", style=style, script=script, policy=policy, **values)
    try:
        with open(out, "w", encoding="utf-8", opener=opener(private)) as file:
            file.write(page)
    except OSError as error:
        raise RunDirectoryError(f"{out} cannot be written: {error.strerror or error}") from error


def _read(table: RunTable) -> None:
    while not table.refresh():
        pass
    if not table.count:
        raise RunDirectoryError(f"{table.run} has no finished trajectory")


def _chosen(table: RunTable, most: int, choose: Sequence[Choice], tasks: Sequence[str]) -> list[Row]:
    found: dict[int, Row] = {}
    for task in tasks:
        number = table.number_of(task)
        if number is None:
            raise ConfigError(f"{table.run} has no finished trajectory of a task {task!r}")
        found[number] = table.row(number)
    most = min(most, table.count)  # Failed tasks come after all trajectories.
    orders = [table.rows(_ORDERS[choice], 0, most) for choice in choose]
    wanted = most + len(found)
    for row in chain.from_iterable(zip_longest(*orders)):
        if row is not None and len(found) < wanted:
            found.setdefault(row.number, row)
    return list(found.values())


def _tree(table: RunTable, number: int) -> str:
    trajectory = table.trajectory(number)
    probabilities = chosen_probabilities(trajectory.turns, table.reliability().reward.components)
    return render("report_tree.html", trajectory=trajectory, probabilities=probabilities)


def _pairs(table: RunTable, other: RunTable, name: str, other_name: str) -> Iterator[tuple[Any, str]]:
    for pair in table.pairs(other, limit=_PAIRS):
        sides = [(name, table.trajectory(pair.number)), (other_name, other.trajectory(pair.other_number))]
        yield pair, _packed(render("report_pair.html", sides=sides))


def _packed(html: str) -> str:
    """Return HTML as the page unpacks it. A tree takes a tenth of its size so."""
    return base64.b64encode(gzip.compress(html.encode(), mtime=0)).decode()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
