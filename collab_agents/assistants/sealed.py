import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage

from collab_agents._internal.sealing import is_sealed, load_key, seal_of
from collab_agents.assistants.apps.driver import AppError
from collab_agents.errors import ConfigError
from collab_agents.participants import Answers, AssistantContext, Executed, Executing, Memory, state_of


class SealedAssistant:
    """Wraps an assistant whose memory is kept where others can write, such as in a server's threads.

    It accepts only memories that it returned itself, here or in another process with the same key, because an app's
    memory determines what is executed.
    """

    def __init__(self, assistant: Executing) -> None:
        self.assistant = assistant
        load_key()

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        reply, after = await self.assistant.respond(messages, _opened(memory), context)
        return reply, _closed(after)

    def state_of(self, memory: Memory) -> dict[str, Any]:
        return state_of(self.assistant, _opened(memory))

    async def execute(
        self,
        messages: Sequence[BaseMessage],
        memory: Memory,
        reply: Sequence[BaseMessage],
        after: Memory,
        *,
        context: AssistantContext | None = None,
        answers: Answers | None = None,
        in_words: bool = True,
    ) -> Executed:
        try:
            done = await self.assistant.execute(
                messages, _opened(memory), reply, _opened(after), context=context, answers=answers, in_words=in_words
            )
        except AppError as error:
            if error.after:
                error.after = _closed(error.after)
            raise
        return Executed(done.reply, _closed(done.memory), done.interrupts)


def _closed(memory: Memory) -> Memory:
    text = json.dumps(memory)
    return {"sealed": text, "seal": seal_of(text.encode())}


def _opened(memory: Memory) -> Memory:
    if not memory:
        return {}
    text, seal = memory.get("sealed"), memory.get("seal")
    if not (isinstance(text, str) and isinstance(seal, str) and is_sealed(text.encode(), seal)):
        raise ConfigError("assistant_memory was not written by this server: start a new thread")
    opened: Memory = json.loads(text)
    return opened
