from collections.abc import Sequence

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from pydantic import BaseModel, field_validator, model_validator

from collab_agents.messages import transcript
from collab_agents.personas import Persona
from collab_agents.prompts import render
from collab_agents.structured import ask
from collab_agents.tasks import Task
from collab_agents.users.base import Memory, closing


class UserReply(BaseModel):
    """What the model answers; only `response` is said aloud."""

    current_answer: str = ""
    thought: str = ""
    response: str = ""
    end_conversation: bool = False

    @field_validator("current_answer", "thought", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return value if isinstance(value, str) else str(value)

    @model_validator(mode="after")
    def _says_something(self) -> "UserReply":
        if not self.response.strip() and not self.end_conversation:
            raise ValueError("response is empty although the conversation goes on")
        return self


class LLMUser:
    """Plays a goal and a persona through any chat model (CollabLLM's user simulator).

    The model thinks aloud in JSON (`current_answer`, `thought`), says `response`, and decides explicitly whether
    the conversation is over. A reply that cannot be used is repaired or asked again, `attempts` times in all;
    then `respond` raises UnusableReply.
    """

    def __init__(self, model: BaseChatModel, *, attempts: int = 4) -> None:
        self.model = model
        self.attempts = attempts

    async def respond(self, messages: Sequence[BaseMessage], memory: Memory) -> tuple[BaseMessage | None, Memory]:
        task: Task = memory["task"]
        persona: Persona | None = memory.get("persona")
        scene = render(
            "llm_user_scene",
            goal=task.prompt,
            persona=persona.describe() if persona else "An ordinary person.",
            transcript=transcript(messages, tools=False) or "(Nothing yet: you write first.)\n",
        )
        prompt: list[BaseMessage] = [SystemMessage(render("llm_user")), HumanMessage(scene)]
        reply = await ask(self.model, prompt, UserReply, seed=memory["seed"], attempts=self.attempts)
        said = reply.response.strip()
        if not reply.end_conversation:
            return HumanMessage(said), memory
        return (closing(said) if said else None), memory
