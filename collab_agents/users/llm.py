from collections.abc import Callable, Sequence
from copy import deepcopy
from string import Template
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as make_tool
from pydantic import BaseModel, field_validator, model_validator

from collab_agents.errors import ConfigError
from collab_agents.models.ask import ask
from collab_agents.participants import Memory, UserContext
from collab_agents.personas import Persona
from collab_agents.prompts import Prompt, fill, render, tagged, template_of, transcript
from collab_agents.users.base import closing
from collab_agents.users.tools import noted, run_tools


class UserReply(BaseModel):
    """The model's answer. Only `response` becomes part of the conversation."""

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
    """A user played by any chat model, with a goal and a persona (CollabLLM's user simulator).

    The model answers in JSON: it thinks in `current_answer` and `thought`, speaks in `response`, and decides in
    `end_conversation` whether the conversation is over. A reply that cannot be used is repaired or requested again;
    after `attempts` tries, `respond` raises UnusableReply.

    Args:
        model: The chat model.
        template: Replaces the message that describes the scene at each turn. It has the variables `$goal`, `$persona`
            (in words) and `$transcript`; each is filled in between tags that its content cannot close. It should end
            with the request for the JSON object, and `$transcript` should come as late as possible, so that the text
            before it is the same at every turn. How to play is in the system prompt before it.
        persona: The persona to play if the context has none.
        tools: The user's own tools (LangChain tools or functions), for example to look up their order. The assistant
            sees neither calls nor results; the user remembers them for this conversation, as `noted` in its memory.
            A tool keeps or changes state in `user_state()`.
        tool_timeout: Seconds for one tool call; None for no limit.
        attempts: How often the model is asked before its reply counts as unusable.

    Raises:
        ConfigError: If the template lacks `$goal` or `$transcript` or has an unknown variable, or if one of `tools` is
            not a tool or a function with a docstring.

    Example:
        user = LLMUser(model, persona=PERSONAS["busy-manager"])
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        template: str | None = None,
        persona: Persona | None = None,
        tools: Sequence[BaseTool | Callable[..., object]] = (),
        tool_timeout: float | None = 60.0,
        attempts: int = 4,
    ) -> None:
        self.model = model
        self.template = template_of("llm_user_scene") if template is None else _checked(template)
        self.persona = persona
        self.tools = [_as_tool(one) for one in tools]
        self.tool_timeout = tool_timeout
        self.attempts = attempts

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: UserContext
    ) -> tuple[BaseMessage | None, Memory]:
        task, persona = context.task, context.persona or self.persona
        notes: list[list[Any]] = list(memory.get("noted", []))
        scene = fill(
            self.template,
            goal=tagged("goal", task.goal),
            persona=tagged("character", persona.describe() if persona else "An ordinary person."),
            transcript=_transcript(messages, notes) or Prompt("(Nothing yet: you write first.)\n"),
        )
        state = memory["user_state"] if "user_state" in memory else deepcopy(task.metadata.get("user_state", {}))

        async def use(reply: AIMessage) -> list[ToolMessage]:
            results = await run_tools(self.tools, reply, state, seconds=self.tool_timeout)
            notes.extend([len(messages), note] for note in noted(reply, results))
            return results

        how = render("llm_user") + (render("llm_user_tools") if self.tools else "")
        prompt: list[BaseMessage] = [SystemMessage(how), HumanMessage(scene)]
        reply = await ask(
            self.model,
            prompt,
            UserReply,
            seed=context.seed,
            attempts=self.attempts,
            tools=self.tools,
            use=use if self.tools else None,
        )
        if self.tools:
            memory = {**memory, "noted": notes, "user_state": state}
        said = reply.response.strip()
        if not reply.end_conversation:
            return HumanMessage(said), memory
        return (closing(said) if said else None), memory


def _as_tool(given: object) -> BaseTool:
    if isinstance(given, BaseTool):
        return given
    if not callable(given):
        raise ConfigError(f"tools: expected a LangChain tool or a function, got {given!r}")
    try:
        return make_tool(given)
    except ValueError as error:  # A function without a docstring, which tells the model what it is for.
        raise ConfigError(f"tools: {error}") from error


def _checked(text: str) -> Template:
    template = Template(text)
    names = template.get_identifiers()
    for name in names:
        if name not in _VARIABLES:
            raise ConfigError(
                f"template: there is no variable ${name}: use {', '.join('$' + one for one in _VARIABLES)}"
            )
    for name in ("goal", "transcript"):
        if name not in names:
            raise ConfigError(f"template: ${name} is missing; the user needs it to play")
    if not template.is_valid():
        raise ConfigError("template: write $$ for a $ that does not begin a variable")
    return template


_VARIABLES = ("goal", "persona", "transcript")


def _transcript(messages: Sequence[BaseMessage], notes: Sequence[Sequence[Any]]) -> Prompt:
    """Render the conversation as the user sees it, with the user's tool results where they were looked up."""
    parts, start = [], 0
    for at, note in notes:
        parts += [transcript(messages[start:at], tools=False), tagged("note", note) + "\n"]
        start = at
    return Prompt("".join([*parts, transcript(messages[start:], tools=False)]))
