"""Drawing a graph: a placeholder assistant, and access to the graphs inside nodes."""

from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage

from collab_agents.graphs.conversation import Graph
from collab_agents.participants import AssistantContext, Memory


class Anybody:
    """A placeholder assistant for a graph that is only drawn: its shape does not depend on the participants."""

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        return [AIMessage("")], memory


def open_up(graph: Graph) -> None:
    """Show LangGraph the graphs that nodes call, so that it draws them too.

    LangGraph finds only graphs with checkpoints, which branches do not have. Use it on a graph that is not run.
    """
    for node in graph.nodes.values():
        inner = getattr(getattr(node.bound, "afunc", None), "graph", None)  # As `running` marks it.
        if inner is not None:
            node.subgraphs = [inner]
            open_up(inner)
