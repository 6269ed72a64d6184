from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, SystemMessage, convert_to_messages

from collab_agents.errors import ConfigError, UnusableReply
from collab_agents.messages import as_example
from collab_agents.models.ask import invoke
from collab_agents.participants import AssistantContext, Memory
from collab_agents.prompts import render


class ChatAssistant:
    """Any LangChain chat model as the assistant.

    Args:
        model: The chat model.
        system_prompt: Prepended to every conversation that has no system prompt of its own. Not recorded.
        proactive_prompt: Replaces the system prompt for candidates that are sampled proactively, so that candidates
            differ in strategy and not only in wording. The default asks for clarifying questions before the work.
        examples: Few-shot exchanges, as messages or role/content dicts, placed between the system prompt and every
            conversation. Not recorded.
        proactive_examples: Replaces `examples` for candidates that are sampled proactively (default: `examples`).

    Raises:
        ConfigError: If an example is not a message.

    Example:
        assistant = ChatAssistant(model, system_prompt="You help people write. Ask before you write.")
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        system_prompt: str | None = None,
        proactive_prompt: str | None = None,
        examples: Sequence[BaseMessage | Mapping[str, object]] = (),
        proactive_examples: Sequence[BaseMessage | Mapping[str, object]] | None = None,
    ) -> None:
        self.model = model
        self.system_prompt = system_prompt
        self.proactive_prompt = proactive_prompt or render("proactive")
        self.examples = _read("examples", examples)
        self.proactive_examples = (
            self.examples if proactive_examples is None else _read("proactive_examples", proactive_examples)
        )

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        prompt = self.proactive_prompt if context.proactive else context.system_prompt or self.system_prompt
        examples = self.proactive_examples if context.proactive else self.examples
        system = [SystemMessage(prompt)] if prompt else []
        reply = await invoke(self.model, [*system, *examples, *messages], seed=context.seed)
        if reply.tool_calls:
            called = ", ".join(call["name"] for call in reply.tool_calls)
            raise UnusableReply(f"the model calls tools ({called}), but it has none")
        return [reply], memory


def _read(name: str, given: Sequence[BaseMessage | Mapping[str, object]]) -> list[BaseMessage]:
    try:
        return [as_example(one) for one in convert_to_messages(list[Any](given))]
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"{name}: {str(error).splitlines()[0]}") from error
