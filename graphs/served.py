"""The names that `langgraph.json` files had for the graphs of `collab_agents.server.served`."""

from collab_agents.server.served import conversation, lookahead, lookahead_agent, rollout

__all__ = ["conversation", "lookahead", "lookahead_agent", "rollout"]
