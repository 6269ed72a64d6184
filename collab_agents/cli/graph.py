"""Draw the graphs. Their shape does not depend on the participants, so placeholders are used."""

from typing import Any

from collab_agents.graphs import (
    create_conversation_graph,
    create_lookahead_agent,
    create_lookahead_graph,
    create_rollout_graph,
)
from collab_agents.graphs.drawing import Anybody, open_up
from collab_agents.judges import token_cost
from collab_agents.rewards import MultiturnReward
from collab_agents.users import ScriptedUser


def mermaid(name: str) -> str:
    who: Any = {
        "user": ScriptedUser([]),
        "assistant": Anybody(),
        "reward": MultiturnReward({"token_cost": token_cost()}),
    }
    match name:
        case "conversation":
            graph = create_conversation_graph(**who)
        case "lookahead":
            graph = create_lookahead_graph(**who)
        case "rollout":
            graph = create_rollout_graph(**who)
        case _:
            graph = create_lookahead_agent(**who)
    open_up(graph)
    return graph.get_graph(xray=True).draw_mermaid()
