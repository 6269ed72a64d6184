"""The web page of `collab-agents view`, as a Starlette application.

Pages are rendered here, and htmx exchanges parts of them: there is no state in the browser, the same templates make
reports and notebooks, and a page works without scripts too. Run folders are read and never written.
"""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from collab_agents._internal.addresses import place_at
from collab_agents.errors import CollabError
from collab_agents.runs.directory import read_run
from collab_agents.runs.scorecard import Scorecard
from collab_agents.trajectories import Trajectory
from collab_agents.variance import chosen_probabilities
from collab_agents.view.guard import Guard
from collab_agents.view.html import render
from collab_agents.view.places import Place, find_new
from collab_agents.view.rounds import RoundsPages
from collab_agents.view.rows import Wanted
from collab_agents.view.summary import config_of, reading, standing_of, summary_of
from collab_agents.view.table import FAILED, RunTable
from collab_agents.view.training import TrainingPages

_ROWS = 50
_ENDS = [
    ("user", "by the user"),
    ("max_turns", "with the last exchange"),
    ("interrupted", "by an interruption"),
    ("failed", "by a failure"),
]


def create_app(places: list[Place], *, hosts: Collection[str], token: str | None = None) -> Starlette:
    """Return the application.

    Args:
        places: What to show. What comes into evaluations and loops while it is shown is appended.
        hosts: What the Host header may be, port included; see `Guard`.
        token: What the first address must have in its query; see `Guard`.
    """
    pages = Pages(places)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        for place in places:
            await place.close()

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/", pages.index),
            Route("/compare", pages.compare),
            Route("/compare/task", pages.pair),
            Route("/{place:int}", pages.overview),
            Route("/{place:int}/trajectories", pages.table),
            Route("/{place:int}/trajectories/{number:int}", pages.trajectory),
            Route("/{place:int}/samples/{step:int}", pages.samples),
            Mount("/static", StaticFiles(directory=str(files("collab_agents.view") / "static"))),
        ],
        middleware=[Middleware(Guard, hosts=hosts, token=token)],
        exception_handlers={HTTPException: _explain, CollabError: _explain},
    )


class Pages:
    """The pages about some places."""

    def __init__(self, places: list[Place]) -> None:
        self._places = places
        self._trainings = TrainingPages(self._page)
        self._rounds = RoundsPages(self._page)

    @property
    def _runs(self) -> list[Place]:
        return [place for place in self._places if place.kind == "run"]

    async def index(self, request: Request) -> Response:
        await run_in_threadpool(find_new, self._places)
        given = [place for place in self._places if place.within is None]
        if len(given) == 1:
            return await self._overview(request, given[0])
        return self._page("runs.html", places=self._places, here="/")

    async def overview(self, request: Request) -> Response:
        return await self._overview(request, self._place(request))

    async def _overview(self, request: Request, place: Place) -> Response:
        part = request.query_params.get("part")
        if place.kind in ("evaluation", "loop", "training"):
            await run_in_threadpool(find_new, self._places)
        if place.kind == "loop":
            return await self._rounds.overview(place, part)
        if place.kind == "evaluation":
            sets = (await run_in_threadpool(_scorecard, place.path)).sets
            return self._page("scorecard.html", place=place, here=place.link, sets=sets, inside=place.inside)
        if place.kind == "training":
            return await self._trainings.overview(place, _offset(request), part)
        table = await place.table()
        found = await place.reliability()
        run = await run_in_threadpool(read_run, place.path)
        standing = await run_in_threadpool(standing_of, place.path, run, table)
        stamp = f"{_stamp(table)}-{found is not None}-{standing['under_way']}-{standing['left']}"
        if part == stamp:
            return Response(status_code=204)
        values = await run_in_threadpool(summary_of, table, found) | standing
        template = "run.html" if part is None else "run_live.html"
        again = _link(place.link, {"part": stamp})
        return self._page(template, place=place, here=place.link, again=again, config=config_of(run), **values)

    async def table(self, request: Request) -> Response:
        place, wanted, offset = self._run(request), _wanted(request), _offset(request)
        here, query = f"{place.link}/trajectories", _query(wanted)
        table = await place.table()
        _check_known(wanted, table)
        stamp = _stamp(table)
        if request.query_params.get("part") == stamp:
            return Response(status_code=204)
        matching = await run_in_threadpool(table.matching, wanted)
        found = await run_in_threadpool(table.rows, wanted, offset, _ROWS)
        last = offset + len(found)
        part = request.headers.get("hx-request") == "true"
        return self._page(
            "rows.html" if part else "table.html",
            place=place,
            here=here,
            table=table,
            reading=reading(table),
            wanted=wanted,
            ends=_ENDS,
            columns=_columns(wanted, table, here),
            matching=matching,
            rows=[(row, _link(f"{here}/{row.number}", query)) for row in found],
            first=offset + 1,
            last=last,
            earlier=_link(here, query | {"offset": max(0, offset - _ROWS)}) if offset else None,
            later=_link(here, query | {"offset": last}) if last < matching else None,
            again=_link(here, query | {"offset": offset, "part": stamp}),
        )

    async def trajectory(self, request: Request) -> Response:
        place, wanted = self._run(request), _wanted(request)
        number = request.path_params["number"]
        table = await place.table()
        beside = await run_in_threadpool(table.beside, number, wanted)
        here, query = f"{place.link}/trajectories", _query(wanted)
        previous, following = (None if one is None else _link(f"{here}/{one}", query) for one in beside)
        links = {"place": place, "here": here, "previous": previous, "next": following, "up": _link(here, query)}
        try:
            if number >= FAILED:
                failure = await run_in_threadpool(table.failure, number)
                task, persona = failure.task, failure.persona
                return self._page("failure.html", task=task, persona=persona, reason=failure.error, **links)
            found = await run_in_threadpool(table.trajectory, number)
        except LookupError:
            why = (
                f"There is no trajectory {number}." if number < FAILED else "This task has not failed, or not any more."
            )
            raise HTTPException(404, why) from None
        known = await place.reliability()
        probabilities = chosen_probabilities(found.turns, known.reward.components if known else None)
        return self._page("trajectory.html", task=found.task, trajectory=found, probabilities=probabilities, **links)

    async def samples(self, request: Request) -> Response:
        return await self._trainings.step(self._place(request), request.path_params["step"])

    async def compare(self, request: Request) -> Response:
        one, other = self._two(request)
        score, offset = request.query_params.get("score", "reward"), _offset(request)
        mine, theirs = await one.table(), await other.table()
        found = await run_in_threadpool(mine.pairs, theirs, score, offset, _ROWS + 1)
        query = {"a": one.number, "b": other.number, "score": score}
        return self._page(
            "compare.html",
            here="/compare",
            one=one,
            other=other,
            runs=self._runs,
            score=score,
            scores=["reward", *mine.judges],
            pairs=[
                (pair, _link("/compare/task", query | {"task": pair.task_id, "at": offset + index}))
                for index, pair in enumerate(found[:_ROWS])
            ],
            earlier=_link("/compare", query | {"offset": max(0, offset - _ROWS)}) if offset else None,
            later=_link("/compare", query | {"offset": offset + _ROWS}) if len(found) > _ROWS else None,
        )

    async def pair(self, request: Request) -> Response:
        one, other = self._two(request)
        task = request.query_params.get("task", "")
        mine, theirs = await one.table(), await other.table()
        sides = []
        for place, table in ((one, mine), (other, theirs)):
            number, trajectory = await run_in_threadpool(_by_task, table, task)
            sides.append((place, trajectory, f"{place.link}/trajectories/{number}"))
        score, at = request.query_params.get("score", "reward"), _whole(request, "at")
        query = {"a": one.number, "b": other.number, "score": score}
        first = max(0, at - 1)
        found = await run_in_threadpool(mine.pairs, theirs, score, first, at - first + 2)
        beside = [
            _link("/compare/task", query | {"task": pair.task_id, "at": first + index})
            for index, pair in enumerate(found)
        ]
        return self._page(
            "pair.html",
            here="",
            task=task,
            sides=sides,
            previous=beside[0] if at else None,
            next=beside[at - first + 1] if len(beside) > at - first + 1 else None,
            up=_link("/compare", query),
        )

    def _page(self, template: str, **values: Any) -> HTMLResponse:
        return HTMLResponse(render(template, several=len(self._runs) > 1, **values))

    def _place(self, request: Request) -> Place:
        number = request.path_params["place"]
        if not 0 <= number < len(self._places):
            raise HTTPException(404, "There is no such run.")
        return self._places[number]

    def _run(self, request: Request) -> Place:
        place = self._place(request)
        if place.kind != "run":
            raise HTTPException(404, f"{place.name} is no run.")
        return place

    def _two(self, request: Request) -> tuple[Place, Place]:
        runs = {place.number: place for place in self._runs}
        default = [*runs, *runs][:2]
        try:
            return tuple(  # type: ignore[return-value]
                runs[int(request.query_params.get(name, default[index]))] for index, name in enumerate("ab")
            )
        except (ValueError, LookupError):
            raise HTTPException(404, "There is no such run.") from None


async def _explain(request: Request, error: Exception) -> Response:
    status, why = (error.status_code, error.detail) if isinstance(error, HTTPException) else (422, str(error))
    html = render("error.html", title="Not found" if status == 404 else "This cannot be shown", why=why)
    return HTMLResponse(html, status)


def _stamp(table: RunTable) -> str:
    """Return a text that is another one after a change."""
    return f"{table.version}-{table.count}-{table.failed}-{table.read_bytes}-{table.total_bytes}"


def _scorecard(path: str) -> Scorecard:
    """Return an evaluation's scorecard, without sets if it is not finished."""
    file = place_at(path) / "scorecard.json"
    return Scorecard.model_validate_json(file.read_text(encoding="utf-8")) if file.exists() else Scorecard(sets=[])


def _by_task(table: RunTable, task: str) -> tuple[int, Trajectory]:
    number = table.number_of(task)
    if number is None:
        raise HTTPException(404, f"A run has no finished trajectory of the task {task!r}.")
    return number, table.trajectory(number)


def _wanted(request: Request) -> Wanted:
    """Return what the query asks for. Raises HTTPException for what is no number."""
    given = request.query_params
    return Wanted(
        text=given.get("text", ""),
        persona=given.get("persona") or None,
        stopped=given.get("stopped") or None,
        faulty=bool(given.get("faulty")),
        unscored=bool(given.get("unscored")),
        score=given.get("score") or "reward",
        least=_number(request, "least"),
        most=_number(request, "most"),
        sort=given.get("sort") or "number",
        descending=bool(given.get("down")),
    )


def _number(request: Request, name: str) -> float | None:
    given = request.query_params.get(name)
    try:
        return float(given) if given else None
    except ValueError:
        raise HTTPException(400, f"{name} must be a number, got {given!r}.") from None


def _whole(request: Request, name: str) -> int:
    number = _number(request, name) or 0
    return max(0, int(number)) if number < 1e12 else 0


def _offset(request: Request) -> int:
    return _whole(request, "offset")


def _check_known(wanted: Wanted, table: RunTable) -> None:
    for name in (wanted.score, wanted.sort):
        if name not in (*_COLUMNS, *table.judges):
            raise HTTPException(400, f"There is no column {name!r}.")


def _query(wanted: Wanted) -> dict[str, Any]:
    """Return what `_wanted` reads, without what is at its default."""
    given = asdict(wanted)
    given["down"] = "1" if given.pop("descending") else None
    given["sort"] = None if given["sort"] == "number" else given["sort"]
    given["score"] = None if wanted.least is None and wanted.most is None else given["score"]
    return {name: "1" if value is True else value for name, value in given.items() if value not in (None, "", False)}


def _link(path: str, query: Mapping[str, Any]) -> str:
    return f"{quote(path)}?{urlencode(query)}" if query else quote(path)


_COLUMNS = {
    "number": "",
    "task_id": "Task",
    "persona": "Persona",
    "reward": "Reward",
    "spread": "Spread",
    "exchanges": "Exchanges",
    "tokens": "Tokens",
    "dollars": "Cost",
    "faults": "Faults",
}


def _columns(wanted: Wanted, table: RunTable, here: str) -> list[dict[str, Any]]:
    """Return the heads of the table's columns, each with a link that sorts by it."""
    names = ["task_id", *(["persona"] if table.personas else []), "reward", *table.judges]
    columns = []
    for name in [*names, "spread", "exchanges", "tokens", "dollars", "faults"]:
        is_sorted = name == wanted.sort
        words = name in ("task_id", "persona")
        descending = not wanted.descending if is_sorted else not words
        link = _link(here, _query(replace(wanted, sort=name, descending=descending)))
        columns.append(
            {
                "label": name if name in table.judges else _COLUMNS[name],
                "number": not words,
                "link": link,
                "sorted": ("descending" if wanted.descending else "ascending") if is_sorted else None,
            }
        )
    return columns
