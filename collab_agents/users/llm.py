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

    template: of one's own, instead of the scene that the model is given each time, with `$goal`, `$persona` (in
        words) and `$transcript`, each between tags that nothing in it can close. `$transcript` should stand last: what
        comes before it is then the same at every turn. It ends by asking for the JSON object; how to play is in the
        system prompt before it.
    persona: who is played where the graph gives nobody.
    tools: the user's own (LangChain tools or functions), such as to look up their own order. The assistant sees
        neither calls nor results; the user remembers them in this conversation, as `noted` in its memory. A tool that
        keeps or changes something does it in `user_state()`. tool_timeout: seconds for one call; None waits for ever.

    Raises ConfigError for a template that lacks `$goal` or `$transcript`, or has a variable that there is not, and for
    what is no tool.
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        template: str | None = None,
        persona: Persona | None = None,
        tools: Sequence[BaseTool | Callable[..., Any]] = (),
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


def _as_tool(given: Any) -> BaseTool:
    if isinstance(given, BaseTool):
        return given
    if not callable(given):
        raise ConfigError(f"tools: a LangChain tool or a function is needed, got {given!r}")
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
                f"template: there is no ${name}: it may have {', '.join('$' + one for one in _VARIABLES)}"
            )
    for name in ("goal", "transcript"):
        if name not in names:
            raise ConfigError(f"template: ${name} is missing, without which the user cannot play")
    if not template.is_valid():
        raise ConfigError("template: a $ that begins no variable is written $$")
    return template


_VARIABLES = ("goal", "persona", "transcript")


def _transcript(messages: Sequence[BaseMessage], notes: Sequence[Sequence[Any]]) -> Prompt:
    """The conversation as the user sees it, and what they looked up where they did."""
    parts, start = [], 0
    for at, note in notes:
        parts += [transcript(messages[start:at], tools=False), tagged("note", note) + "\n"]
        start = at
    return Prompt("".join([*parts, transcript(messages[start:], tools=False)]))
