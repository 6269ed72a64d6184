from collections.abc import Mapping

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable

from collab_agents._internal.importing import attribute_at, made_with
from collab_agents.assistants.chat import ChatAssistant
from collab_agents.errors import ConfigError
from collab_agents.participants import Assistant


def load_assistant(name: str, *, options: Mapping[str, object] | None = None) -> Assistant:
    """Import the assistant at "module:attribute".

    A chat model becomes a `ChatAssistant` if there are no options. A compiled LangGraph app or another Runnable becomes
    a `GraphAssistant`.

    Args:
        name: Where to import from, as "module:attribute".
        options: Keyword arguments for `GraphAssistant`, or for the class or function at `name`, which is called with
            them and returns an assistant or an app.

    Returns:
        The assistant.

    Raises:
        ConfigError: If the import fails, or the attribute does not give an assistant.
    """
    what = f"assistant {name!r}"
    own, left = attribute_at(name, "assistant.app"), dict(options or {})
    if (callable(own) and not isinstance(own, Runnable | Assistant)) or isinstance(own, type):
        own, left = made_with(left, own, what), {}
    if isinstance(own, BaseChatModel) and not left:
        return ChatAssistant(own)
    if isinstance(own, Runnable):
        from collab_agents.assistants.apps.assistant import GraphAssistant  # Imports langgraph.

        return made_with({"app": own, **left}, GraphAssistant, what)
    if isinstance(own, Assistant) and not left:
        return own
    if isinstance(own, Assistant):
        raise ConfigError(f"{what} takes no options: it is made already")
    raise ConfigError(f"{what}: expected an app or an object with respond, got {type(own).__name__}")
