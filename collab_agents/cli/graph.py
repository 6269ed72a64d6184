"""Drawing the graphs. Their shape does not depend on who takes part, so anybody does."""

import inspect
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.graph.state import CompiledStateGraph

from collab_agents.graphs import create_conversation_graph, create_lookahead_graph, create_rollout_graph
from collab_agents.judges import token_cost
from collab_agents.rewards import MultiturnReward
from collab_agents.users import Memory, ScriptedUser


class _Anybody:
    async def respond(self, messages: Sequence[BaseMessage], memory: Memory) -> tuple[list[BaseMessage], Memory]:
        return [AIMessage("")], memory


def mermaid(name: str) -> str:
    user, assistant = ScriptedUser([]), _Anybody()
    if name == "conversation":
        graph = create_conversation_graph(user, assistant)
    else:
        create = create_lookahead_graph if name == "lookahead" else create_rollout_graph
        graph = create(user, assistant, MultiturnReward({"token_cost": token_cost()}))
    _open(graph)
    return graph.get_graph(xray=True).draw_mermaid()


def _open(graph: Any) -> None:
    """Show LangGraph what is inside the nodes that call a graph: it looks only for graphs that keep checkpoints,

    and branches keep none.
    """
    for node in graph.nodes.values():
        function = getattr(node.bound, "afunc", None)
        inside = inspect.getclosurevars(inspect.unwrap(function)).nonlocals.values() if function else ()
        node.subgraphs = [one for one in inside if isinstance(one, CompiledStateGraph)]
        for one in node.subgraphs:
            _open(one)
