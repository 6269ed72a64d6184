"""What it takes to draw a graph: somebody to take part, and a look inside its branches."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

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
        inner = getattr(getattr(node.bound, "afunc", None), "graph", None)  # As `running` marks it.
        if inner is not None:
            node.subgraphs = [inner]
            open_up(inner)
