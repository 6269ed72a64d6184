"""The graphs as a LangGraph server serves them: `langgraph.json` names the functions of this module.

    langgraph dev

Each makes its graph anew for every run, of the run's own `Settings`; models are loaded once and kept.
"""

import asyncio
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any

from langgraph_sdk.runtime import ServerRuntime

from collab_agents.compose import Composition, compose
from collab_agents.config import Budget, RunConfig
from collab_agents.graphs.agent import create_lookahead_agent
from collab_agents.graphs.conversation import Graph, create_conversation_graph
from collab_agents.graphs.lookahead import create_lookahead_graph
from collab_agents.graphs.outline import Anybody, open_up
from collab_agents.graphs.rollout import create_rollout_graph
from collab_agents.graphs.scene import create_goal, create_scene
from collab_agents.graphs.settings import Settings, run_config, settings_of
from collab_agents.judges import token_cost
from collab_agents.personas import PERSONAS, pick_persona
from collab_agents.rewards import MultiturnReward
from collab_agents.users import ScriptedUser

Runtime = ServerRuntime[dict[str, Any]]

_KEPT = 8
"""Compositions, which hold what their models are limited by and their connections."""


async def conversation(runtime: Runtime) -> Graph:
    """A simulated user and the assistant in turn, judged at the end."""
    return await _served(_conversation, runtime)


async def lookahead(runtime: Runtime) -> Graph:
    """The multiturn-aware reward of the reply at the end of `messages`."""
    return await _served(_lookahead, runtime)


async def rollout(runtime: Runtime) -> Graph:
    """A conversation in which every reply is the best of several, by lookahead."""
    return await _served(_rollout, runtime)


async def lookahead_agent(runtime: Runtime) -> Graph:
    """An agent that answers the user at the end of `messages` with the best of several replies, by lookahead."""
    return await _served(_lookahead_agent, runtime)


Make = Callable[[Settings, RunConfig, Composition], Graph]


def _conversation(settings: Settings, config: RunConfig, parts: Composition) -> Graph:
    return create_conversation_graph(
        parts.user,
        parts.assistant,
        max_exchanges=config.lookahead.max_exchanges,
        reward=parts.reward,
        scene=create_scene(settings, config, parts.user, parts.reward),
    )


def _lookahead(settings: Settings, config: RunConfig, parts: Composition) -> Graph:
    return create_lookahead_graph(
        parts.user,
        parts.assistant,
        parts.reward,
        futures=config.lookahead.futures,
        window=config.lookahead.window,
        scene=create_scene(settings, config, parts.user, parts.reward, of_reply=True),
    )


def _rollout(settings: Settings, config: RunConfig, parts: Composition) -> Graph:
    return create_rollout_graph(
        parts.user,
        parts.assistant,
        parts.reward,
        **config.lookahead.model_dump(),
        scene=create_scene(settings, config, parts.user, parts.reward),
    )


def _lookahead_agent(settings: Settings, config: RunConfig, parts: Composition) -> Graph:
    personas, seed = config.user.personas, config.seed if settings.seed is None else settings.seed
    return create_lookahead_agent(
        parts.assistant,
        parts.user,
        parts.reward,
        **config.lookahead.model_dump(exclude={"max_exchanges"}),
        budget=Budget(seconds=settings.budget_seconds, calls=settings.budget_calls),
        goal=create_goal(config, parts.user, parts.reward),
        persona=PERSONAS[settings.persona] if settings.persona else pick_persona(personas, seed=seed, task_id="live"),
        seed=seed,
    )


async def _served(make: Make, runtime: Runtime) -> Graph:
    if runtime.execution_runtime is None:
        return _outline(make, drawn=runtime.access_context == "assistants.read")
    # Models are loaded here and not when they are first asked, so that one that cannot be loaded ends the run, with its
    # reason, and not a branch of it.
    settings = settings_of(runtime.execution_runtime.context or {})
    config, parts = await asyncio.to_thread(_composed, settings)
    return _with_settings(make(settings, config, parts))


def _with_settings(graph: Graph) -> Graph:
    return graph.copy({"context_schema": Settings})


@cache
def _outline(make: Make, *, drawn: bool) -> Graph:
    """The graph with nobody in it, to read and draw: nothing is loaded for it."""
    settings = Settings()
    reward = MultiturnReward({"token_cost": token_cost()})
    graph = _with_settings(make(settings, run_config(settings), Composition(Anybody(), ScriptedUser([]), reward, [])))
    if drawn:
        open_up(graph)
    return graph


_compositions: dict[str, Composition] = {}
_loading = Lock()


def _composed(settings: Settings) -> tuple[RunConfig, Composition]:
    config = run_config(settings)
    key = config.model_dump_json(include={"assistant", "user", "judges", "limits"}, exclude_unset=True)
    with _loading:
        if key not in _compositions:
            parts = compose(config)
            while len(_compositions) >= _KEPT:
                del _compositions[next(iter(_compositions))]
            _compositions[key] = parts
        return config, _compositions[key]
