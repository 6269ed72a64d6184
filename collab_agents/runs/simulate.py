"""One conversation with an app: the door for people who have an app and ten minutes."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import ValidationError

from collab_agents._internal.importing import made_with
from collab_agents._internal.reasons import first_problem
from collab_agents.assistants import Assistant, ChatAssistant
from collab_agents.assistants.apps.assistant import GraphAssistant
from collab_agents.errors import ConfigError
from collab_agents.graphs.conversation import create_conversation_graph
from collab_agents.graphs.states import trajectory_of
from collab_agents.judges import AnyJudge, Judge
from collab_agents.models import load_chat_model
from collab_agents.personas import Persona, get_personas
from collab_agents.rewards import MultiturnReward
from collab_agents.tasks import Task
from collab_agents.trajectories import Trajectory
from collab_agents.usage import track_usage
from collab_agents.users import AnyUser, LLMUser, as_user

AnyApp = Assistant | Runnable[Any, Any] | Callable[[list[BaseMessage]], Any]
"""What `simulate` takes for an app."""

_MODEL = "openai:gpt-4o-mini"


async def simulate(
    app: AnyApp,
    *,
    goal: str | Task,
    persona: str | Persona | None = None,
    model: str | BaseChatModel | None = None,
    user: AnyUser | None = None,
    judges: Mapping[str, Judge | AnyJudge] | None = None,
    max_exchanges: int = 8,
    seed: int = 0,
    **options: Any,
) -> Trajectory:
    """Play one conversation with an app and return it as a trajectory, judged if there are judges.

        trajectory = await simulate(app, goal="You want order 7 cancelled.", persona="hurried-parent")
        trajectory.messages  # role/content dicts, tool calls and results included

    app: a compiled LangGraph app, any Runnable, a chat model, a function of the messages so far (async or not) that
        returns a text, a message or several, or an `Assistant`.
    goal: what the simulated user wants, in words addressed to the user ("You want ..."), or a `Task`.
    persona: one that ships, by name, or a `Persona`.
    model: plays the user, as `load_chat_model` takes it; by default "openai:gpt-4o-mini".
    user: plays the user instead of a model.
    judges: by the name that they have in the record, see `MultiturnReward`.
    options: those of `GraphAssistant`, such as `simulate_tools`. The app's tools are called unless these say otherwise.

    Raises RolloutError, which says where, if the app or the user fails; ConfigError for an unknown persona or option.
    """
    if user is not None and model is not None:
        raise ConfigError("simulate: either a model plays the user or the user given does, not both")
    if isinstance(persona, str):
        (persona,) = get_personas([persona])
    try:
        task = goal if isinstance(goal, Task) else Task(id="goal", goal=goal)
        player = None if user is None else as_user(user)
    except ValidationError as error:
        raise ConfigError(f"simulate: {first_problem(error)}") from error
    except TypeError as error:
        raise ConfigError(f"simulate: user: {error}") from error
    assistant = _assistant(app, options)
    if player is None:
        model = _MODEL if model is None else model
        player = LLMUser(load_chat_model(model) if isinstance(model, str) else model)
    graph = create_conversation_graph(
        player, assistant, max_exchanges=max_exchanges, reward=MultiturnReward(judges) if judges else None
    )
    try:
        with track_usage() as usage:
            state = await graph.ainvoke({"messages": [], "task": task, "persona": persona, "seed": seed})
    finally:
        if isinstance(assistant, GraphAssistant) and assistant is not app:
            await assistant.aclose()
    return trajectory_of(state | {"usage": asdict(usage)}, task, persona, seed)


def _assistant(app: AnyApp, options: dict[str, Any]) -> Assistant:
    if isinstance(app, BaseChatModel) and not options:
        return ChatAssistant(app)
    if isinstance(app, Assistant) and not isinstance(app, Runnable | type):
        if options:
            raise ConfigError(f"simulate: {min(options)} is an option for an app, and this is an assistant already")
        return app
    if not isinstance(app, Runnable):
        if not callable(app) or isinstance(app, type):
            kind = f"the class {app.__name__}" if isinstance(app, type) else type(app).__name__
            raise ConfigError(f"simulate: app: a compiled graph, a Runnable or a function is needed, got {kind}")
        options = {"name": getattr(app, "__name__", "app"), **options}
        key = options.get("input_key", "messages")
        app = RunnableLambda(lambda given: given[key]) | RunnableLambda(app)
    return made_with({"app": app, **options}, GraphAssistant, "simulate")
