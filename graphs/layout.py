"""Places the nodes of a small graph in layers, from the top down, and leads its edges around them.

The method is that of Sugiyama: edges that close a cycle are turned around, every node comes below those before it,
layers are ordered so that few edges cross, and nodes move towards their neighbours as far as there is room.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

Point = tuple[float, float]
Edge = tuple[str, str]
"""From one node to another."""

_BESIDE, _BELOW = 28.0, 46.0
"""Between nodes, and between layers."""
_LANE = 14.0
"""The width that an edge takes where it passes a layer."""
_PORTS = 22.0
"""The distance of edges that begin or end at the same side of a node."""
_ORDERINGS, _MOVES = 8, 12
"""How often layers are ordered, and nodes are moved."""

_Place = str | tuple[int, int]
"""A node, or where an edge, by its index, passes a layer."""
_Neighbours = Mapping[_Place, Sequence[_Place]]


class Layout(NamedTuple):
    """Where everything is, from the top left corner."""

    width: float
    height: float
    centres: dict[str, Point]
    routes: list[list[Point]]
    """For each edge, points from its source to its target; none for an edge from a node to itself.

    Between points with different x, an edge leaves the one vertically and reaches the other vertically."""


def lay_out(sizes: Mapping[str, Point], edges: Sequence[Edge]) -> Layout:
    """Return the layout of a graph.

    Args:
        sizes: The width and height of each node, in the order in which they are tried at the top.
        edges: The edges, between these nodes.
    """
    turned = _closing_cycles(sizes, edges)
    downward = [(target, source) if at in turned else (source, target) for at, (source, target) in enumerate(edges)]
    rank = _ranks(sizes, downward)
    layers: list[list[_Place]] = [[] for _ in range(max(rank.values(), default=-1) + 1)]
    for node in sizes:
        layers[rank[node]].append(node)
    chains: dict[int, list[_Place]] = {}
    for at, (upper, lower) in enumerate(downward):
        if upper != lower:
            passed: list[_Place] = [(at, layer) for layer in range(rank[upper] + 1, rank[lower])]
            for place, layer in zip(passed, layers[rank[upper] + 1 :], strict=False):
                layer.append(place)
            chains[at] = [upper, *passed, lower]
    above, below = defaultdict[_Place, list[_Place]](list), defaultdict[_Place, list[_Place]](list)
    for chain in chains.values():
        for upper_place, lower_place in pairwise(chain):
            below[upper_place].append(lower_place)
            above[lower_place].append(upper_place)
    layers = _ordered(layers, above, below)
    widths = {place: sizes[place][0] if isinstance(place, str) else _LANE for layer in layers for place in layer}
    across = _moved(layers, widths, above, below)
    heights = [max((sizes[one][1] for one in layer if isinstance(one, str)), default=0.0) for layer in layers]
    tops = [sum(heights[:layer]) + _BELOW * layer for layer in range(len(layers))]
    centres = {node: (across[node], tops[rank[node]] + heights[rank[node]] / 2) for node in sizes}
    starts, ends = _ports(chains, across, sizes, down=True), _ports(chains, across, sizes, down=False)
    routes: list[list[Point]] = []
    for at in range(len(edges)):
        chain = chains.get(at, [])
        route: list[Point] = []
        for place in chain:
            if isinstance(place, str):
                half = sizes[place][1] / 2
                middle, top = centres[place][1], tops[rank[place]]
                if place == chain[0]:
                    route += [(starts[at], middle + half), (starts[at], top + heights[rank[place]])]
                else:
                    route += [(ends[at], top), (ends[at], middle - half)]
            else:
                route += [(across[place], tops[place[1]]), (across[place], tops[place[1]] + heights[place[1]])]
        routes.append(route[::-1] if at in turned else route)
    width = max((across[place] + widths[place] / 2 for place in across), default=0.0)
    return Layout(width, tops[-1] + heights[-1] if layers else 0.0, centres, routes)


def _closing_cycles(nodes: Mapping[str, object], edges: Sequence[Edge]) -> set[int]:
    """Return the indices of edges that lead back to a node on the way to them."""
    leaving = defaultdict[str, list[int]](list)
    for at, (source, _) in enumerate(edges):
        leaving[source].append(at)
    found, seen = set[int](), set[str]()
    for root in nodes:
        if root in seen:
            continue
        seen.add(root)
        way = {root: iter(leaving[root])}
        while way:
            node = next(reversed(way))
            edge = next(way[node], None)
            if edge is None:
                del way[node]
                continue
            target = edges[edge][1]
            if target in way:
                found.add(edge)
            elif target not in seen:
                seen.add(target)
                way[target] = iter(leaving[target])
    return found


def _ranks(nodes: Mapping[str, object], downward: Sequence[Edge]) -> dict[str, int]:
    """Return each node's layer: one below the lowest of those above it."""
    before = defaultdict[str, set[str]](set)
    for upper, lower in downward:
        if upper != lower:
            before[lower].add(upper)
    rank: dict[str, int] = {}
    while len(rank) < len(nodes):
        for node in nodes:
            if node not in rank and before[node] <= rank.keys():
                rank[node] = max((rank[one] + 1 for one in before[node]), default=0)
    return rank


def _ordered(layers: list[list[_Place]], above: _Neighbours, below: _Neighbours) -> list[list[_Place]]:
    """Return the layers, ordered by the means of their neighbours' positions."""
    best, fewest = layers, _crossings(layers, below)
    for turn in range(_ORDERINGS):
        down = turn % 2 == 0
        layers = [list(layer) for layer in layers]
        at = {place: index for layer in layers for index, place in enumerate(layer)}
        for layer in layers if down else reversed(layers):
            neighbours = above if down else below
            layer.sort(key=lambda place: _mean([at[one] for one in neighbours.get(place, ())], at[place]))
            at |= {place: index for index, place in enumerate(layer)}
        crossings = _crossings(layers, below)
        if crossings < fewest:
            best, fewest = layers, crossings
    return best


def _crossings(layers: Sequence[Sequence[_Place]], below: _Neighbours) -> int:
    at = {place: index for layer in layers for index, place in enumerate(layer)}
    count = 0
    for layer in layers:
        lines = [(at[upper], at[lower]) for upper in layer for lower in below.get(upper, ())]
        count += sum(a < c and b > d for a, b in lines for c, d in lines)
    return count


def _moved(
    layers: Sequence[Sequence[_Place]], widths: Mapping[_Place, float], above: _Neighbours, below: _Neighbours
) -> dict[_Place, float]:
    """Return the centres of all places across, each as near to its neighbours as those beside it allow."""
    across: dict[_Place, float] = {}
    for layer in layers:
        across |= zip(layer, _apart(layer, [0.0] * len(layer), widths), strict=True)
    for turn in range(_MOVES):
        down = turn % 2 == 0
        neighbours = above if down else below
        for layer in layers if down else reversed(layers):
            wanted = [_mean([across[one] for one in neighbours.get(place, ())], across[place]) for place in layer]
            across |= zip(layer, _apart(layer, wanted, widths), strict=True)
    left = min((across[place] - widths[place] / 2 for place in across), default=0.0)
    return {place: x - left for place, x in across.items()}


def _apart(layer: Sequence[_Place], wanted: Sequence[float], widths: Mapping[_Place, float]) -> list[float]:
    """Return the centres nearest to those wanted (by least squares) that leave room for all in this order.

    Without the room that each needs these are to be ascending, which is an isotonic regression.
    """
    room = [0.0]
    for one, other in pairwise(layer):
        room.append(room[-1] + (widths[one] + widths[other]) / 2 + _BESIDE)
    blocks: list[tuple[float, int]] = []
    for value, offset in zip(wanted, room, strict=False):
        block = (value - offset, 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, count = blocks.pop()
            block = ((mean * count + block[0] * block[1]) / (count + block[1]), count + block[1])
        blocks.append(block)
    values = [mean for mean, count in blocks for _ in range(count)]
    return [value + offset for value, offset in zip(values, room, strict=False)]


def _ports(
    chains: Mapping[int, Sequence[_Place]],
    across: Mapping[_Place, float],
    sizes: Mapping[str, Point],
    *,
    down: bool,
) -> dict[int, float]:
    """Return where each edge leaves the node above it (`down`), or reaches the node below it."""
    by_node = defaultdict[_Place, list[tuple[float, int]]](list)
    for at, chain in chains.items():
        node, neighbour = (chain[0], chain[1]) if down else (chain[-1], chain[-2])
        by_node[node].append((across[neighbour], at))
    found: dict[int, float] = {}
    for node, lines in by_node.items():
        assert isinstance(node, str)
        step = min(_PORTS, (sizes[node][0] - _LANE) / len(lines))
        for index, (_, at) in enumerate(sorted(lines)):
            found[at] = across[node] + (index - (len(lines) - 1) / 2) * step
    return found


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default
