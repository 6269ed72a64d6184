"""Drawing a graph: a placeholder assistant, and access to the graphs inside nodes."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.pregel import Pregel

from collab_agents.graphs.picture import inner_graphs
from collab_agents.participants import AssistantContext, Memory


class Anybody:
    """A placeholder assistant for a graph that is only drawn: its shape does not depend on the participants."""

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        return [AIMessage("")], memory


def open_up(graph: Pregel[Any, Any, Any, Any]) -> None:
    """Show LangGraph the graphs that nodes call, so that it draws them too. Use it on a graph that is not run."""
    for name, inner in inner_graphs(graph).items():
        graph.nodes[name].subgraphs = [inner]
        open_up(inner)
