"""A conversation: the simulated user and the assistant take turns until the user is done or the exchanges run out."""

from typing import Any

from langgraph.graph import END, StateGraph
from langgraph.graph.state import CompiledStateGraph

from collab_agents.assistants import Assistant
from collab_agents.assistants.apps.threads import Saver
from collab_agents.graphs.nodes import (
    Node,
    add_speaker,
    assistant_node,
    counted,
    ends_with_user,
    judge_node,
    opening,
    user_node,
)
from collab_agents.graphs.picture import compiled
from collab_agents.graphs.states import ConversationInput, ConversationState, JudgedState, ServedInput, State
from collab_agents.lookahead import MAX_EXCHANGES, check_lookahead
from collab_agents.rewards import MultiturnReward
from collab_agents.users import AnyUser, as_user

Graph = CompiledStateGraph[Any, Any, Any, Any]


def create_conversation_graph(
    user: AnyUser,
    assistant: Assistant,
    *,
    max_exchanges: int = MAX_EXCHANGES,
    reward: MultiturnReward | None = None,
    scene: Node | None = None,
    continues: bool = False,
    checkpointer: Saver | None = None,
) -> Graph:
    """Create a graph that runs one conversation between a simulated user and an assistant.

    Its input is a `task` (a `Task` or its dict) and optionally `messages` to continue from, a `persona` and a `seed`.
    If the messages end with the user's, the assistant begins. Its output is all `messages`, `stopped` ("user" or
    "max_turns"), `exchanges` and the memories.

    Args:
        user: Plays the user.
        assistant: Answers.
        max_exchanges: The most exchanges (one user and one assistant message each).
        reward: Judges the finished conversation. The output then has `reward`, `scores` by judge, `reasons` and
            `usage` too.
        scene: A node that runs first and adds to the state what the input lacks.
        continues: Whether the input may be the state after any turn of such a conversation, which then goes on.
        checkpointer: Keeps the state. A thread then holds one conversation, and the input has `task` and `persona` as
            dicts.

    Returns:
        The compiled graph. Calling it raises RolloutError, which names the node, if a participant fails.

    Raises:
        ConfigError: If `max_exchanges` is less than 1.

    Example:
        graph = create_conversation_graph(LLMUser(model), ChatAssistant(model), max_exchanges=4)
        task = Task(id="trip", goal="You want to plan a weekend in Lisbon.")
        state = await graph.ainvoke({"task": task, "messages": []})
    """

    # The route is async: LangGraph runs a sync route on a thread, which costs more than the route itself.
    async def begin(state: State) -> str:
        if continues and state.get("stopped"):
            return end
        return "assistant" if ends_with_user(state) else "simulated_user"

    check_lookahead(max_exchanges=max_exchanges)
    schema: type[ConversationState] = JudgedState if reward else ConversationState
    given: type[ServedInput] = ServedInput if scene else schema if continues else ConversationInput
    graph = StateGraph(schema, input_schema=given)
    speak, answer = user_node(as_user(user)), assistant_node(assistant, max_exchanges=max_exchanges)
    end = END
    if reward:
        end = "judge"
        speak, answer = counted(speak), counted(answer)
        graph.add_node("judge", counted(judge_node(reward, assistant)))
        graph.add_edge("judge", END)
    add_speaker(graph, "simulated_user", speak, then="assistant", end=end)
    add_speaker(graph, "assistant", answer, then="simulated_user", end=end)
    graph.add_conditional_edges(opening(graph, scene), begin, ["simulated_user", "assistant", *[end] * continues])
    return compiled(graph, "conversation", checkpointer)
