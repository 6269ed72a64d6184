"""An assistant that chooses its replies by a value model alone, for `benchmarks.training`."""

from typing import Any

from langgraph.graph.state import CompiledStateGraph

from collab_agents import (
    ChatAssistant,
    Lookahead,
    MultiturnReward,
    ScriptedUser,
    create_lookahead_agent,
    load_chat_model,
)
from collab_agents.judges import token_cost

ALWAYS_SURE = 1e-9
"""A confidence with which no future is played."""


def assistant(
    *, candidates: int, value: str, name: str, options: dict[str, Any], **sampling: Any
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return an agent that samples candidates and gives the one of which the value model expects most."""
    return create_lookahead_agent(
        ChatAssistant(load_chat_model(name, **options, **sampling)),
        ScriptedUser(["{goal}"]),
        MultiturnReward({"cost": token_cost()}),
        Lookahead(candidates=candidates, futures=1, confidence=ALWAYS_SURE, value=value),
        agree=1.0,
    )
