"""The page of a loop: how good each round is, what it was trained on, and links to all of its parts."""

import json
from collections.abc import Callable
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from collab_agents.training.rounds import IMPROVE, Round, Rounds, read_rounds
from collab_agents.view.places import Place


class RoundsPages:
    """The pages of loops.

    Args:
        page: Makes a page of a template and its values.
    """

    def __init__(self, page: Callable[..., Response]) -> None:
        self._page = page

    async def overview(self, place: Place, part: str | None) -> Response:
        """Return the page, or nothing if it has not changed since `part`."""
        wholes = [one for one in place.inside if one.kind == "evaluation"]
        parts = [*place.inside, *(run for one in wholes for run in one.inside)]
        stamp = f"{(Path(place.path) / IMPROVE).stat().st_mtime_ns}-{len(parts)}"
        if part == stamp:
            return Response(status_code=204)
        record = await run_in_threadpool(read_rounds, place.path)
        return self._page(
            "rounds.html",
            place=place,
            here=place.link,
            record=record,
            plot=[
                (f"{one.number}", one.reward.value, one.reward.low, one.reward.high)
                for one in record.rounds
                if one.reward is not None
            ],
            links={number: _links(number, parts) for number in range(len(record.rounds) + 1)},
            wholes=wholes,
            next=len(record.rounds),
            sets=_sets(record),
            trained=[(one.number, name, made) for one in record.rounds for name, made in one.data.items()],
            config=json.dumps(record.config, indent=2, ensure_ascii=False),
            again=f"{place.link}?part={stamp}",
        )


def _links(number: int, parts: list[Place]) -> list[tuple[str, str]]:
    """Return the names and links of what a round has: its trajectories, trainings and held-out conversations."""
    own, side = f"round-{number}/", f"/round-{number}/"
    found = []
    for one in parts:
        if one.name.startswith(own):
            found.append((one.name.removeprefix(own), one.link))
        elif one.kind == "run" and side in one.name:
            found.append((one.name.replace(side, "/"), one.link))
    return found


def _sets(record: Rounds) -> dict[str, tuple[list[str], list[Round]]]:
    """Return, by set of held-out tasks, the measures and the rounds that played it."""
    sets: dict[str, tuple[list[str], list[Round]]] = {}
    for one in record.rounds:
        for name, found in one.sets.items():
            sets.setdefault(name, (list(found.measures), []))[1].append(one)
    return sets
