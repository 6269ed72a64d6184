"""One conversation with an app: the quickest way to try one."""

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
from collab_agents.lookahead import MAX_EXCHANGES
from collab_agents.models import load_chat_model
from collab_agents.personas import Persona, get_personas
from collab_agents.rewards import MultiturnReward
from collab_agents.tasks import Task
from collab_agents.trajectories import Trajectory
from collab_agents.usage import track_usage
from collab_agents.users import AnyUser, LLMUser, as_user

AnyApp = Assistant | Runnable[Any, Any] | Callable[[list[BaseMessage]], object]
"""What `simulate` accepts as an app."""

_MODEL = "openai:gpt-4o-mini"


async def simulate(
    app: AnyApp,
    *,
    goal: str | Task,
    persona: str | Persona | None = None,
    model: str | BaseChatModel | None = None,
    user: AnyUser | None = None,
    judges: Mapping[str, Judge | AnyJudge] | None = None,
    max_exchanges: int = MAX_EXCHANGES,
    seed: int = 0,
    **options: Any,
) -> Trajectory:
    """Simulate one conversation with an app and return it as a trajectory, judged if there are judges.

    Args:
        app: A compiled LangGraph app, any Runnable, a chat model, an `Assistant`, or a function (sync or async) of the
            messages so far that returns a text or one or more messages.
        goal: What the simulated user wants, in words addressed to the user ("You want ..."), or a `Task`.
        persona: The name of a persona that ships with the library, or a `Persona`.
        model: Plays the user: a name for `load_chat_model`, by default "openai:gpt-4o-mini", or a chat model.
        user: Plays the user instead of a model.
        judges: By the name under which their scores are recorded, see `MultiturnReward`.
        max_exchanges: The most exchanges (one user and one assistant message each).
        seed: The conversation's seed.
        **options: Options of `GraphAssistant`, such as `simulate_tools`. By default, the app's tools are executed.

    Raises:
        RolloutError: If the app or the user fails; it says where.
        ConfigError: For an unknown persona or option.

    Example:
        trajectory = await simulate(app, goal="You want order 7 cancelled.", persona="hurried-parent")
        trajectory.messages  # role/content dicts, tool calls and results included
    """
    if user is not None and model is not None:
        raise ConfigError("simulate: user cannot be combined with model, since both play the user")
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
            raise ConfigError(f"simulate: {min(options)} is an option for an app, not for an Assistant")
        return app
    if not isinstance(app, Runnable):
        if not callable(app) or isinstance(app, type):
            kind = f"the class {app.__name__}" if isinstance(app, type) else type(app).__name__
            raise ConfigError(f"simulate: app: expected a compiled graph, a Runnable or a function, got {kind}")
        options = {"name": getattr(app, "__name__", "app"), **options}
        key = options.get("input_key", "messages")
        app = RunnableLambda(lambda given: given[key]) | RunnableLambda(app)
    return made_with({"app": app, **options}, GraphAssistant, "simulate")
