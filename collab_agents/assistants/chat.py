from collections.abc import Sequence

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, SystemMessage

from collab_agents.memory import Memory
from collab_agents.prompts import render
from collab_agents.structured import invoke


class ChatAssistant:
    """Any LangChain chat model as the assistant.

    system_prompt: put before every conversation; not part of what is recorded.
    proactive_prompt: takes the system prompt's place in the share of candidates that are sampled proactively, for
        candidates that differ in strategy and not only in wording. By default a prompt that asks for clarifying
        questions before the work.
    """

    def __init__(
        self, model: BaseChatModel, *, system_prompt: str | None = None, proactive_prompt: str | None = None
    ) -> None:
        self.model = model
        self.system_prompt = system_prompt
        self.proactive_prompt = proactive_prompt or render("proactive")

    async def respond(self, messages: Sequence[BaseMessage], memory: Memory) -> tuple[list[BaseMessage], Memory]:
        prompt = self.proactive_prompt if memory.get("proactive") else self.system_prompt
        system = [SystemMessage(prompt)] if prompt else []
        reply = await invoke(self.model, [*system, *messages], seed=memory["seed"])
        return [reply], memory
