"""A conversation: simulated_user and assistant in turn, until the user is done or the exchanges run out."""

from collections.abc import Callable
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from collab_agents.assistants import Assistant
from collab_agents.config import check_lookahead
from collab_agents.graphs.nodes import assistant_node, ends_with_user, user_node
from collab_agents.graphs.states import ConversationInput, ConversationState
from collab_agents.users import SimulatedUser, as_user

Graph = CompiledStateGraph[Any, Any, Any, Any]


def create_conversation_graph(
    user: SimulatedUser | Callable[..., Any], assistant: Assistant, *, max_exchanges: int = 8
) -> Graph:
    """A compiled graph that plays one conversation.

    Input: `task` (a `Task` or its dict) and, if wanted, `messages` to go on with, `persona` and `seed`.
    Output: `messages` with everything said, `stopped` ("user" or "max_turns"), `exchanges`, and the memories.
    One exchange is one user and one assistant message. The assistant begins if the user's message is there
    already. Raises RolloutError, which names the node, when a participant fails.
    """

    # Routes are async: LangGraph runs a sync one on a thread, which costs more than all it does.
    async def begin(state: Any) -> str:
        return "assistant" if ends_with_user(state) else "simulated_user"

    async def after_user(state: Any) -> str:
        return END if state.get("stopped") else "assistant"

    async def after_assistant(state: Any) -> str:
        return END if state.get("stopped") else "simulated_user"

    check_lookahead(max_exchanges=max_exchanges)
    graph = StateGraph(ConversationState, input_schema=ConversationInput)
    graph.add_node("simulated_user", user_node(as_user(user)))
    graph.add_node("assistant", assistant_node(assistant, max_exchanges=max_exchanges))
    graph.add_conditional_edges(START, begin, ["simulated_user", "assistant"])
    graph.add_conditional_edges("simulated_user", after_user, ["assistant", END])
    graph.add_conditional_edges("assistant", after_assistant, ["simulated_user", END])
    return graph.compile(name="conversation")
