"""The pages of a training: its curves, its evaluations, and for each sampled step the replies and their futures."""

from collections.abc import Callable
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from collab_agents.view.curves import SETTINGS, read_curves
from collab_agents.view.places import Place
from collab_agents.view.samples import SampleSteps

_STEPS = 50


class TrainingPages:
    """The pages of trainings.

    Args:
        page: Makes a page of a template and its values.
    """

    def __init__(self, page: Callable[..., Response]) -> None:
        self._page = page
        self._known: dict[int, SampleSteps] = {}

    def _samples(self, place: Place) -> SampleSteps:
        return self._known.setdefault(place.number, SampleSteps(place.path))

    async def overview(self, place: Place, offset: int, part: str | None) -> Response:
        """Return the page, from this step of those that were sampled, or nothing if it has not changed since `part`."""
        samples = self._samples(place)
        curves = await run_in_threadpool(read_curves, Path(place.path))
        steps = await run_in_threadpool(samples.all)
        points = sum(len(line) for kinds in curves.values() for line in kinds.values())
        stamp = f"{points}-{samples.end}-{len(place.inside)}"
        if part == stamp:
            return Response(status_code=204)
        config = await run_in_threadpool(_text_of, Path(place.path) / SETTINGS)
        last = min(offset + _STEPS, len(steps))
        return self._page(
            "training.html",
            place=place,
            here=place.link,
            curves=curves,
            config=config,
            problems=samples.problems,
            evaluations=place.inside,
            steps=steps[offset:last],
            recorded=len(steps),
            first=offset + 1,
            last=last,
            earlier=f"{place.link}?offset={max(0, offset - _STEPS)}" if offset else None,
            later=f"{place.link}?offset={last}" if last < len(steps) else None,
            again=f"{place.link}?offset={offset}&part={stamp}",
        )

    async def step(self, place: Place, number: int) -> Response:
        """Return the page of a step's samples. Raises HTTPException if there are none."""
        if place.kind != "training":
            raise HTTPException(404, f"{place.name} is no training.")
        try:
            samples, before, after = await run_in_threadpool(self._samples(place).at, number)
        except LookupError:
            raise HTTPException(404, f"There are no samples of step {number}.") from None
        previous, following = (None if one is None else f"{place.link}/samples/{one}" for one in (before, after))
        return self._page(
            "samples.html",
            place=place,
            here="",
            step=number,
            samples=samples,
            previous=previous,
            next=following,
            up=place.link,
        )


def _text_of(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.exists() else None
