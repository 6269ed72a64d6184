"""Drawing the graphs. Their shape does not depend on who takes part, so anybody does."""

from collab_agents.graphs import create_conversation_graph, create_lookahead_graph, create_rollout_graph
from collab_agents.graphs.outline import Anybody, open_up
from collab_agents.judges import token_cost
from collab_agents.rewards import MultiturnReward
from collab_agents.users import ScriptedUser


def mermaid(name: str) -> str:
    user, assistant = ScriptedUser([]), Anybody()
    if name == "conversation":
        graph = create_conversation_graph(user, assistant)
    else:
        create = create_lookahead_graph if name == "lookahead" else create_rollout_graph
        graph = create(user, assistant, MultiturnReward({"token_cost": token_cost()}))
    open_up(graph)
    return graph.get_graph(xray=True).draw_mermaid()
