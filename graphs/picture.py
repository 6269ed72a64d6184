"""Drawing a graph, as SVG and without a network: LangGraph asks a server for the pictures that a notebook shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, Literal, cast

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from rich.cells import cell_len

from collab_agents._internal.text import harmless, valid
from collab_agents.assistants.apps.threads import Saver
from collab_agents.graphs.layout import Point, lay_out

_STYLE = """
.collab-graph { --ink: #1d2430; --paper: #fff; --box: #e6effc; --inner: #f6f8fb; --line: #5a6473; --edge: #c9d0da; }
@media (prefers-color-scheme: dark) {
  .collab-graph {
    --ink: #e6eaf0; --paper: #14181f; --box: #22324a; --inner: #1a2029; --line: #a3adbb; --edge: #3a4350;
  }
}
.collab-graph .paper { fill: var(--paper); }
.collab-graph text { fill: var(--ink); font: 13px system-ui, sans-serif; text-anchor: middle; }
.collab-graph .node { fill: var(--box); stroke: var(--line); }
.collab-graph .inner { fill: var(--inner); stroke: var(--edge); }
.collab-graph .title { font-weight: 600; text-anchor: start; }
.collab-graph .note { font-size: 11px; paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.collab-graph .edge { fill: none; stroke: var(--line); stroke-width: 1.5; }
.collab-graph .maybe { stroke-dasharray: 4 3; }
.collab-graph .head { fill: var(--line); }
"""
_MARGIN, _PAD, _TITLE = 12.0, 14.0, 24.0
_HEIGHT, _LETTER = 34.0, 7.6
_HEAD = 7.0
_LOOP = 26.0
_LONGEST = 40
"""Characters of a name that are shown."""


@dataclass(frozen=True)
class Drawing:
    """A picture of a graph, which a notebook shows. It follows the light or dark theme of where it is shown."""

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg


@dataclass(frozen=True)
class _Picture:
    width: float
    height: float
    svg: str


def draw_graph(graph: Pregel[Any, Any, Any, Any]) -> Drawing:
    """Draw a compiled graph, and inside its nodes the graphs that they run.

    Dashed edges are those that a condition chooses.

    Args:
        graph: Any compiled LangGraph graph, such as one of `collab_agents.graphs` or of an app of yours.

    Example:
        Path("rollout.svg").write_text(draw_graph(create_rollout_graph(user, assistant, reward)).svg)
    """
    picture = _picture(graph)
    width, height = picture.width + 2 * _MARGIN, picture.height + 2 * _MARGIN
    name = escape(_shown(graph.get_name()))
    return Drawing(
        f'<svg xmlns="http://www.w3.org/2000/svg" class="collab-graph" role="img" aria-label="The graph {name}" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">'
        f'<style>{_STYLE}</style><rect class="paper" width="100%" height="100%" rx="6"/>'
        f'<g transform="translate({_MARGIN:g} {_MARGIN:g})">{picture.svg}</g></svg>'
    )


class Drawn(CompiledStateGraph[Any, Any, Any, Any]):
    """A compiled graph that a notebook draws without a network."""

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {"text/plain": repr(self), "image/svg+xml": draw_graph(self).svg}


def compiled(
    graph: StateGraph[Any, Any, Any, Any], name: str, checkpointer: Saver | Literal[False] | None = None
) -> Drawn:
    """Compile a graph that notebooks can draw."""
    made = graph.compile(name=name, checkpointer=checkpointer)
    made.__class__ = Drawn  # LangGraph cannot be told which class to make.
    return cast(Drawn, made)


def _picture(graph: Pregel[Any, Any, Any, Any]) -> _Picture:
    shape = graph.get_graph()
    inner = {name: _picture(one) for name, one in inner_graphs(graph).items() if name in shape.nodes}
    names = {name: _name(name, node.name) for name, node in shape.nodes.items()}
    edges: dict[tuple[str, str], tuple[bool, str]] = {}
    for edge in shape.edges:
        note = str(edge.data) if edge.data is not None and str(edge.data) != edge.target else ""
        edges.setdefault((edge.source, edge.target), (edge.conditional, note))
    sizes = {name: _size(names[name], inner.get(name), loop=(name, name) in edges) for name in shape.nodes}
    layout = lay_out(sizes, list(edges))
    lines = []
    for (source, target), (conditional, note), route in zip(edges, edges.values(), layout.routes, strict=True):
        if source == target:
            (x, y), (width, _) = layout.centres[source], sizes[source]
            route = [(x + width / 2 - _LOOP, y - 7), (x + width / 2 - _LOOP, y + 7)]
        lines.append(_line(route, conditional, note, loop=source == target))
    boxes = [
        _box(names[name], layout.centres[name], sizes[name], inner.get(name), loop=(name, name) in edges)
        for name in shape.nodes
    ]
    return _Picture(layout.width, layout.height, "".join([*lines, *boxes]))


def _size(name: str, inner: _Picture | None, *, loop: bool) -> Point:
    beside = 2 * _LOOP if loop else 0.0
    width = max(cell_len(name) * _LETTER + 2 * _PAD, 64.0)
    if inner is None:
        return width + beside, _HEIGHT
    return max(width, inner.width + 2 * _PAD) + beside, inner.height + _TITLE + 2 * _PAD


def _box(name: str, centre: Point, size: Point, inner: _Picture | None, *, loop: bool) -> str:
    (x, y), (width, height) = centre, size
    width -= 2 * _LOOP if loop else 0.0
    left, top = x - width / 2, y - height / 2
    rectangle = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
    if inner is None:
        radius = height / 2 if name in _ENDS.values() else 6
        return (
            f'<rect class="node" {rectangle} rx="{radius:g}"/><text x="{x:.1f}" y="{y + 4.5:.1f}">{escape(name)}</text>'
        )
    at = f"translate({x - inner.width / 2:.1f} {top + _TITLE + _PAD:.1f})"
    return (
        f'<rect class="inner" {rectangle} rx="8"/>'
        f'<text class="title" x="{left + _PAD:.1f}" y="{top + _TITLE - 3:.1f}">{escape(name)}</text>'
        f'<g transform="{at}">{inner.svg}</g>'
    )


def _line(route: Sequence[Point], conditional: bool, note: str, *, loop: bool) -> str:
    """Return an edge with its head, which points along the edge's last, vertical piece."""
    (x, y), before = route[-1], route[-2]
    if loop:
        out, start = x + 1.3 * _LOOP, f"{before[0]:.1f} {before[1]:.1f}"
        path = f"M{start}C{out:.1f} {before[1] - 12:.1f} {out:.1f} {y + 12:.1f} {x:.1f} {y:.1f}"
        head = f"M{x:.1f} {y:.1f}l{_HEAD:g} {-_HEAD / 2:g}v{_HEAD:g}z"
    else:
        down = 1 if y > route[0][1] else -1
        path = _path([*route[:-1], (x, y - down * (_HEAD - 1))])
        head = f"M{x:.1f} {y:.1f}l{_HEAD / 2:g} {-down * _HEAD:g}h{-_HEAD:g}z"
    kind = "edge maybe" if conditional else "edge"
    (ax, ay), (bx, by) = route[len(route) // 2 - 1], route[len(route) // 2]
    words = f'<text class="note" x="{(ax + bx) / 2:.1f}" y="{(ay + by) / 2:.1f}">{escape(_shown(note))}</text>'
    return f'<path class="{kind}" d="{path}"/><path class="head" d="{head}"/>{words if note else ""}'


def _path(route: Sequence[Point]) -> str:
    (x, y), *_ = route
    pieces = [f"M{x:.1f} {y:.1f}"]
    for (ax, ay), (bx, by) in pairwise(route):
        if abs(ax - bx) < 0.1:
            pieces.append(f"L{bx:.1f} {by:.1f}")
        elif (ax, ay) != (bx, by):
            middle = (ay + by) / 2
            pieces.append(f"C{ax:.1f} {middle:.1f} {bx:.1f} {middle:.1f} {bx:.1f} {by:.1f}")
    return "".join(pieces)


_ENDS = {START: "start", END: "end"}


def _name(node: str, name: str) -> str:
    return _ENDS.get(node) or _shown(name)


def _shown(name: str) -> str:
    name = " ".join(harmless(valid(name)).split())
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def inner_graphs(graph: Pregel[Any, Any, Any, Any]) -> Mapping[str, Pregel[Any, Any, Any, Any]]:
    """Return the graphs that nodes run, by node.

    LangGraph finds only graphs with checkpoints, which branches do not have; `running` marks those.
    """
    marked = {name: getattr(getattr(node.bound, "afunc", None), "graph", None) for name, node in graph.nodes.items()}
    return dict(graph.get_subgraphs()) | {name: one for name, one in marked.items() if one is not None}
