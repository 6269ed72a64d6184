"""What it takes to draw a graph: somebody to take part, and a look inside its branches."""

import inspect
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.graph.state import CompiledStateGraph

from collab_agents.graphs.deliberation import Deliberation
from collab_agents.participants import AssistantContext, Memory


class Anybody:
    """An assistant for a graph that is only looked at: its shape does not depend on who takes part."""

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        return [AIMessage("")], memory


def open_up(graph: Any) -> None:
    """Show LangGraph the graphs that nodes call, so that it draws them too.

    It looks only for graphs that keep checkpoints, and branches keep none. For a graph that is drawn and not run.
    """
    for node in graph.nodes.values():
        function = getattr(node.bound, "afunc", None)
        inside = inspect.getclosurevars(inspect.unwrap(function)).nonlocals.values() if function else ()
        graphs = (one.lookahead_graph if isinstance(one, Deliberation) else one for one in inside)
        node.subgraphs = [one for one in graphs if isinstance(one, CompiledStateGraph)]
        for one in node.subgraphs:
            open_up(one)
