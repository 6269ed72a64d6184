"""The graphs for a LangGraph server (`langgraph dev`): `langgraph.json` names the functions of this module.

Each function creates its graph for every run, from the run's `Settings`; models are loaded once and kept.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from threading import Lock
from typing import Any

from langgraph_sdk.runtime import ServerRuntime

from collab_agents.assistants.sealed import SealedAssistant
from collab_agents.config.build import Composition, compose, personas_of
from collab_agents.graphs.agent import create_lookahead_agent
from collab_agents.graphs.conversation import Graph, create_conversation_graph
from collab_agents.graphs.drawing import Anybody, open_up
from collab_agents.graphs.lookahead import create_lookahead_graph
from collab_agents.graphs.rollout import create_rollout_graph
from collab_agents.judges import token_cost
from collab_agents.lookahead import Budget
from collab_agents.participants import Executing
from collab_agents.personas import PERSONAS, Persona, pick_persona
from collab_agents.rewards import MultiturnReward
from collab_agents.server.scene import Cast, create_goal, create_scene
from collab_agents.server.settings import Settings, run_config, settings_of
from collab_agents.users import ScriptedUser
from collab_agents.value import value_of

Runtime = ServerRuntime[dict[str, Any]]

_KEPT = 8
"""How many casts are kept, each with its models' connections and limits."""


async def conversation(runtime: Runtime) -> Graph:
    """A conversation between a simulated user and the assistant, judged at the end."""
    return await _served(_conversation, runtime)


async def lookahead(runtime: Runtime) -> Graph:
    """The multiturn-aware reward of the reply at the end of `messages`."""
    return await _served(_lookahead, runtime)


async def rollout(runtime: Runtime) -> Graph:
    """A conversation in which every reply is the best of several candidates, chosen by lookahead."""
    return await _served(_rollout, runtime)


async def lookahead_agent(runtime: Runtime) -> Graph:
    """An agent that answers the last user message with the best of several replies, chosen by lookahead."""
    return await _served(_lookahead_agent, runtime)


def _conversation(cast: Cast) -> Graph:
    parts, exchanges = cast.parts, cast.config.lookahead.max_exchanges
    scene = create_scene(cast)
    return create_conversation_graph(
        parts.user, parts.assistant, max_exchanges=exchanges, reward=parts.reward, scene=scene
    )


def _lookahead(cast: Cast) -> Graph:
    parts, scene = cast.parts, create_scene(cast, of_reply=True)
    return create_lookahead_graph(parts.user, parts.assistant, parts.reward, cast.config.lookahead, scene=scene)


def _rollout(cast: Cast) -> Graph:
    parts, scene = cast.parts, create_scene(cast)
    return create_rollout_graph(
        parts.user, parts.assistant, parts.reward, cast.config.lookahead, value=cast.value, scene=scene
    )


def _lookahead_agent(cast: Cast) -> Graph:
    parts, settings = cast.parts, cast.settings
    seed = cast.config.seed if settings.seed is None else settings.seed
    drawn = pick_persona(cast.personas, seed=seed, task_id="live")
    return create_lookahead_agent(
        parts.assistant,
        parts.user,
        parts.reward,
        cast.config.lookahead,
        budget=Budget(seconds=settings.budget_seconds, calls=settings.budget_calls),
        goal=create_goal(cast),
        value=cast.value,
        persona=PERSONAS[settings.persona] if settings.persona else drawn,
        seed=seed,
        takes_memory=False,
    )


async def _served(make: Callable[[Cast], Graph], runtime: Runtime) -> Graph:
    if runtime.execution_runtime is None:
        return _outline(make, drawn=runtime.access_context == "assistants.read")
    # Models are loaded here and not at the first call, so that one that cannot be loaded ends the run, with its reason,
    # instead of a branch of it.
    settings = settings_of(runtime.execution_runtime.context or {})
    return _with_settings(make(await asyncio.to_thread(_cast, settings)))


def _with_settings(graph: Graph) -> Graph:
    return graph.copy({"context_schema": Settings})


@cache
def _outline(make: Callable[[Cast], Graph], *, drawn: bool) -> Graph:
    """Return the graph with placeholder participants, to read and draw it without loading anything."""
    nobody = Composition(Anybody(), ScriptedUser([]), MultiturnReward({"token_cost": token_cost()}), [])
    graph = _with_settings(make(Cast(Settings(), run_config(Settings()), nobody, [])))
    if drawn:
        open_up(graph)
    return graph


def _for_clients(parts: Composition) -> Composition:
    """Seal an app's memory, which decides what is executed for real: clients can write into their threads."""
    if not isinstance(parts.assistant, Executing):
        return parts
    return replace(parts, assistant=SealedAssistant(parts.assistant))


_casts: dict[str, tuple[Composition, list[Persona]]] = {}
_loading = Lock()


def _cast(settings: Settings) -> Cast:
    config = run_config(settings)
    key = config.model_dump_json(include={"assistant", "user", "judges", "limits"}, exclude_unset=True)
    with _loading:
        if key not in _casts:
            loaded = _for_clients(compose(config)), personas_of(config.user)
            while len(_casts) >= _KEPT:
                del _casts[next(iter(_casts))]
            _casts[key] = loaded
        return Cast(settings, config, *_casts[key], value=value_of(config.lookahead))
