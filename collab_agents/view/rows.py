"""The rows of a table of trajectories, and which of them a page wants in which order."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from collab_agents._internal.parts import turns_in
from collab_agents._internal.text import valid
from collab_agents.trajectories import Failure, Trajectory, Turn

_GOAL = 200
_MOST = 2**63 - 1
"""The highest integer that a database holds."""
FAILED = 10**9
"""The number of the first failed task, so that these come after all trajectories."""


class Row(NamedTuple):
    """What a table says of a trajectory, or of a task that failed. The latter has neither scores nor counts."""

    number: int
    """From 1, in the order in which trajectories were read. Failed tasks have numbers from `FAILED` on."""
    task_id: str
    kind: str
    persona: str | None
    reward: float | None
    exchanges: int | None
    calls: int | None
    tokens: int | None
    """Read and written."""
    dollars: float | None
    """None if the price of a call is unknown."""
    stopped: str
    """As in a trajectory, or "failed"."""
    spread: float | None
    """The largest difference, over turns, between the rewards of the best and the worst candidate.

    None if no turn has two candidates with a reward."""
    faults: int | None
    """The number of futures that were dropped for faults of their simulated user."""
    goal: str
    """Its first 200 characters."""
    reason: str = ""
    """Why the task failed."""
    scores: Mapping[str, float | None] = {}
    """By judge, in the order of `RunTable.judges`."""


KEPT = Row._fields[: Row._fields.index("goal")]
"""The fields by which rows can be sorted."""
_NUMBERS = ("reward", "exchanges", "calls", "tokens", "dollars", "spread", "faults")


@dataclass(frozen=True)
class Wanted:
    """Which rows are wanted, and in which order. Rows must meet all conditions; None is no condition."""

    text: str = ""
    """Is in the task's id or goal, in what was said in the conversation or in the reason of a failure.

    Upper and lower case are the same."""
    persona: str | None = None
    kind: str | None = None
    stopped: str | None = None
    """As in `Row`: "failed" is for the tasks that failed."""
    faulty: bool = False
    """Only those with a future that was dropped for a fault of its simulated user."""
    unscored: bool = False
    """Only those without a reward, failed tasks among them."""
    score: str = "reward"
    """What `least` and `most` are of: "reward" or another field that is a number, or a judge's name."""
    least: float | None = None
    most: float | None = None
    sort: str = "number"
    """A field of `Row` before `goal`, or a judge's name. Rows without a value come last."""
    descending: bool = False


class Read(NamedTuple):
    """What an index keeps of a trajectory or a failure."""

    row: tuple[Any, ...]
    """The values of `KEPT` after the number."""
    goal: str
    said: str
    """The text that is searched."""
    scores: Mapping[str, float | None] = {}
    reason: str = ""


def read_row(trajectory: Trajectory) -> Read:
    """Return what an index keeps of a trajectory, in values that a database can hold."""
    task, usage = trajectory.task, trajectory.usage
    row = (
        valid(task.id),
        valid(task.kind),
        valid(trajectory.persona.name) if trajectory.persona else None,
        finite(trajectory.reward),
        len(trajectory.turns) or turns_in(trajectory.messages),
        _whole(usage.calls),
        _whole(usage.input_tokens + usage.output_tokens),
        finite(usage.cost),
        trajectory.stopped,
        max(_spreads(trajectory.turns), default=None),
        sum(bool(future.dropped) for turn in trajectory.turns for one in turn.candidates for future in one.futures),
    )
    said = folded("\n".join([task.id, task.goal, *_said(trajectory)]))
    scores = {valid(name): finite(score) for name, score in trajectory.scores.items()}
    return Read(row, valid(task.goal[:_GOAL]), said, scores)


def read_failed(failure: Failure) -> Read:
    """Return what an index keeps of a failed task."""
    task, persona = failure.task, failure.persona
    known = {"task_id": task.id, "kind": task.kind, "persona": persona.name if persona else None, "stopped": "failed"}
    row = tuple(valid(known.get(name)) for name in KEPT[1:])
    said = folded("\n".join([task.id, task.goal, failure.error]))
    return Read(row, valid(task.goal[:_GOAL]), said, reason=valid(failure.error))


def folded(text: str) -> str:
    """Return a text so that upper and lower case are the same."""
    return str(valid(text)).casefold()


def finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _whole(number: int) -> int:
    return max(-_MOST, min(number, _MOST))


def _spreads(turns: Iterable[Turn]) -> Iterator[float]:
    for turn in turns:
        rewards = [one.reward for one in turn.candidates if one.reward is not None and math.isfinite(one.reward)]
        if len(rewards) > 1:
            yield max(rewards) - min(rewards)


def _said(trajectory: Trajectory) -> Iterator[str]:
    for message in trajectory.messages:
        content = message.get("content")
        for block in content if isinstance(content, list) else [content]:
            text = block.get("text") if isinstance(block, Mapping) else block
            if isinstance(text, str):
                yield text


def columns_of(judges: Mapping[str, str], *, scores: bool = False) -> dict[str, str]:
    """Return the columns by which rows are sorted, by the name of the field or judge; or those with numbers alone.

    Args:
        judges: The columns of the judges.
        scores: Whether only columns with numbers are returned.
    """
    return {**judges, **{name: name for name in (_NUMBERS if scores else KEPT)}}


def query(wanted: Wanted, judges: Mapping[str, str]) -> tuple[str, list[Any]]:
    """Return the statement that selects the numbers of the rows in their order, and its parameters.

    A name that is not a field's is a judge's, who has scored nothing so far if it is not among `judges`.
    """
    score = columns_of(judges, scores=True).get(wanted.score, "NULL")
    conditions: list[tuple[str, Any]] = [
        ("persona = ?", wanted.persona),
        ("kind = ?", wanted.kind),
        ("stopped = ?", wanted.stopped),
        ("faults >= ?", 1 if wanted.faulty else None),
        ("(reward IS NULL) = ?", 1 if wanted.unscored else None),
        (f"{score} >= ?", wanted.least),
        (f"{score} <= ?", wanted.most),
        # The slowest comes last: it looks only at the rows that meet the others.
        ("(SELECT instr(said, ?) FROM texts WHERE texts.number = rows.number)", folded(wanted.text) or None),
    ]
    kept = [(condition, value) for condition, value in conditions if value is not None]
    where = " AND ".join(condition for condition, _ in kept) or "1"
    key, direction = columns_of(judges).get(wanted.sort, "NULL"), "DESC" if wanted.descending else "ASC"
    order = f"{key} {direction} NULLS LAST, number"
    return f"SELECT number FROM rows WHERE {where} ORDER BY {order}", [_bound(value) for _, value in kept]


def _bound(value: Any) -> Any:
    return valid(value) if isinstance(value, str) else value
