"""How a conversation runs: LangGraph state graphs of users, assistants and judges."""

from collab_agents.graphs.agent import create_lookahead_agent
from collab_agents.graphs.conversation import create_conversation_graph
from collab_agents.graphs.lookahead import create_lookahead_graph
from collab_agents.graphs.picture import Drawing, draw_graph
from collab_agents.graphs.rollout import create_rollout_graph

__all__ = [
    "Drawing",
    "create_conversation_graph",
    "create_lookahead_agent",
    "create_lookahead_graph",
    "create_rollout_graph",
    "draw_graph",
]
