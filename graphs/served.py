"""The graphs of `collab_agents.server.served`, for `langgraph.json` files that name this module."""

from collab_agents.server.served import conversation, lookahead, lookahead_agent, rollout

__all__ = ["conversation", "lookahead", "lookahead_agent", "rollout"]
