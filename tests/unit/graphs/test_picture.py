"""Graphs are drawn without a network: those of this package and those of apps, wherever a notebook shows them."""

import asyncio
from collections.abc import Callable
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.manager import KernelManager
from langgraph.graph import END, START, MessagesState, StateGraph

from benchmarks.process import ROOT
from collab_agents import (
    Lookahead,
    MultiturnReward,
    ScriptedUser,
    create_conversation_graph,
    create_lookahead_agent,
    create_lookahead_graph,
    create_rollout_graph,
    draw_graph,
)
from collab_agents.graphs.layout import lay_out
from collab_agents.judges import token_cost
from tests.support.participants import SHORT

WHO: dict[str, Any] = {
    "user": ScriptedUser([]),
    "assistant": SHORT,
    "reward": MultiturnReward({"token_cost": token_cost()}),
}
SVG = "{http://www.w3.org/2000/svg}"


def words_of(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


IN_A_NOTEBOOK = """
import socket

def refused(*_):
    raise OSError("there is no network")

socket.socket.connect = socket.getaddrinfo = refused
from collab_agents import MultiturnReward, ScriptedUser, create_rollout_graph, draw_graph
from collab_agents.judges import token_cost
from tests.support.participants import SHORT
graph = create_rollout_graph(ScriptedUser([]), SHORT, MultiturnReward({"token_cost": token_cost()}))
display(graph)
display(draw_graph(graph.with_config(tags=["x"])))
graph.with_config(tags=["x"])
"""


async def test_a_notebook_shows_graphs_without_a_network() -> None:
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(ROOT))
    client = manager.blocking_client()
    shown: list[dict[str, Any]] = []

    def note(message: dict[str, Any]) -> None:
        assert message["msg_type"] != "error", message["content"]
        if message["msg_type"] in ("display_data", "execute_result"):
            shown.append(message["content"]["data"])

    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        await asyncio.to_thread(client.execute_interactive, IN_A_NOTEBOOK, output_hook=note, timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    pictures = [one["image/svg+xml"] for one in shown]
    assert len(pictures) == 3
    assert len(set(pictures)) == 1
    assert "simulated_user" in words_of(pictures[0])


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (create_conversation_graph, {"simulated_user", "assistant", "judge"}),
        (create_lookahead_graph, {"future", "simulated_user", "assistant", "judge", "mean"}),
        (create_rollout_graph, {"candidate", "future", "assistant", "simulated_user", "mean", "choose", "judge"}),
        (create_lookahead_agent, {"deliberate", "hold", "execute", "ask", "fail", "answer", "future", "mean"}),
    ],
)
def test_a_drawing_has_the_graphs_that_nodes_run_inside_them(make: Callable[..., Any], names: set[str]) -> None:
    graph = make(**WHO)
    svg = graph._repr_mimebundle_()["image/svg+xml"]
    assert svg == draw_graph(graph).svg
    assert names <= set(words_of(svg))
    assert svg.count("http") == 1  # The namespace.


def test_the_allocation_of_further_futures_is_drawn() -> None:
    words = words_of(draw_graph(create_rollout_graph(**WHO, lookahead=Lookahead(allocation="adaptive"))).svg)
    assert words.count("future") == 2
    assert "allocate" in words


def nothing(state: MessagesState) -> dict[str, Any]:
    return {}


def test_any_compiled_graph_is_drawn_with_its_names_as_text() -> None:
    inner = StateGraph(MessagesState)
    inner.add_node("search", nothing)
    inner.add_node("</text><script>", nothing)
    inner.add_edge(START, "search")
    inner.add_conditional_edges("search", lambda state: "again", {"again": "search", "a & b": "</text><script>"})
    inner.add_edge("</text><script>", END)
    graph = StateGraph(MessagesState)
    graph.add_node("team", inner.compile())
    graph.add_node("検索 " * 20, nothing)
    graph.add_edge(START, "team")
    graph.add_edge("team", "検索 " * 20)
    svg = draw_graph(graph.compile(name="<b>")).svg
    words = words_of(svg)
    assert {"team", "search", "</text><script>", "again", "a & b"} <= set(words)
    assert [word for word in words if word.startswith("検索")] == ["検索 " * 13 + "…"]
    kinds = [line.get("class") for line in ElementTree.fromstring(svg).iter(f"{SVG}path")]
    assert kinds.count("edge maybe") == 2
    assert kinds.count("edge") + 2 == kinds.count("head")


NODES = st.integers(0, 7).map(str)


@given(sizes=st.dictionaries(NODES, st.tuples(st.integers(20, 300), st.integers(20, 300)), min_size=1), data=st.data())
def test_nodes_do_not_overlap_and_edges_lead_from_node_to_node(sizes: dict[str, Any], data: Any) -> None:
    node = st.sampled_from(sorted(sizes))
    edges = data.draw(st.lists(st.tuples(node, node), unique=True, max_size=16))
    layout = lay_out(sizes, edges)
    boxes = {
        name: (x - sizes[name][0] / 2, y - sizes[name][1] / 2, x + sizes[name][0] / 2, y + sizes[name][1] / 2)
        for name, (x, y) in layout.centres.items()
    }
    assert boxes.keys() == sizes.keys()
    for left, top, right, bottom in boxes.values():
        assert -1e-6 <= left < right <= layout.width + 1e-6
        assert -1e-6 <= top < bottom <= layout.height + 1e-6
    for one, other in combinations(boxes.values(), 2):
        assert one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
    for (source, target), route in zip(edges, layout.routes, strict=True):
        if source == target:
            assert route == []
            continue
        for name, (x, y) in ((source, route[0]), (target, route[-1])):
            left, top, right, bottom = boxes[name]
            assert left <= x <= right
            assert min(abs(y - top), abs(y - bottom)) < 1e-6
