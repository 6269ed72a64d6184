"""Existing agents as assistants: any Runnable, compiled LangGraph app or deployment."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    BaseMessageChunk,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
    message_chunk_to_message,
)
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.channels import LastValue
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command, Interrupt

from collab_agents.assistants.playing import AppError, LocalPlayer, Played, Player, RemotePlayer, context_around
from collab_agents.assistants.simulation import SIMULATED, simulating, tool_nodes, with_simulated_tools
from collab_agents.assistants.threads import pack, unpack
from collab_agents.errors import ConfigError
from collab_agents.memory import Memory
from collab_agents.messages import text_of, with_ids
from collab_agents.seeds import seeded


def question_in(value: Any) -> str:
    """What an interrupt's value asks a person: a text, or the text under a usual key, or all of it as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        for key in ("question", "query", "message", "prompt", "description", "content", "text"):
            if isinstance(value.get(key), str):
                return value[key]
    return json.dumps(value, ensure_ascii=False, default=str)


@dataclass(frozen=True)
class AskUser:
    """How the simulated user answers an app's interrupts.

    show: the words in which the user is asked, of the interrupt's value. resume: with what the app goes on, of the
    user's words and the value; by default the words.
    """

    show: Callable[[Any], str] = question_in
    resume: Callable[[str, Any], Any] = lambda words, value: words


class GraphAssistant:
    """An agent that exists already as the assistant: a compiled LangGraph app, any other Runnable, or a `RemoteGraph`.

    An app with a checkpointer keeps what it knows in a thread. Every turn is played on a fork of that thread, in
    memory, which goes on in the assistant's memory: futures do not see each other, and no checkpoint of the app's
    own saver is written. The same holds for its store. `fork` begins from a live thread, `commit` puts a branch's
    thread in its place. An app without a checkpointer is given the whole conversation each turn, one with it what it
    has not seen. Of a deployment, threads are copied there; `aclose` deletes the copies.

    app: called with `{input_key: messages}` and `inputs`. A chat model is called with the messages alone.
    input_key: the state key for messages; None if they are handed over by `inputs` alone.
    output_key: the state key to read the reply from, by default input_key: messages, or one, or a text. An app whose
        messages hold its history too replies with those that are new: several, tool calls and results among them.
    inputs: other state keys: a value, or a function of the conversation's messages.
    proactive_inputs: the same, instead, for candidates that are sampled proactively.
    config, context: passed through, to every run. Without a context, the one of the graph around is passed on.
    interrupts: what answers the app's interrupts: a function of the interrupt's value (async or not) that returns what
        to resume with, or "user": the question is shown to the user, whose next message answers it (see `AskUser`).
        By default an interrupt is an error.
    simulate_tools: tools with side effects, by name, and what stands in for each: a function of the tool's arguments
        (async or not) or a value. It takes the place of the tool in every `ToolNode` of the app; `simulate` marks a
        tool where it is written. Whatever else an app does, it does in every branch.
    max_steps: of one turn (LangGraph's recursion limit). timeout: seconds for one turn; None waits for ever.
    rewrites_history: whether the app may change or remove earlier messages, as one that summarises does. Otherwise
        that is an error.
    name: in errors; by default the app's own.

    Raises ConfigError for a tool that the app does not have.
    """

    def __init__(
        self,
        app: Runnable[Any, Any],
        *,
        input_key: str | None = "messages",
        output_key: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        proactive_inputs: Mapping[str, Any] | None = None,
        config: RunnableConfig | None = None,
        context: Any = None,
        interrupts: Literal["user"] | AskUser | Callable[[Any], Any] | None = None,
        simulate_tools: Mapping[str, Any] | None = None,
        max_steps: int = 50,
        timeout: float | None = 300.0,
        rewrites_history: bool = False,
        name: str | None = None,
    ) -> None:
        if not isinstance(app, Runnable):
            raise ConfigError(f"app: a LangChain Runnable or a compiled graph is needed, got {type(app).__name__}")
        if max_steps < 1:
            raise ConfigError(f"max_steps is {max_steps}: at least 1 is needed")
        self.app = app
        self.name = name or app.get_name()
        self.input_key = input_key
        self.output_key = output_key or input_key or "messages"
        self.inputs = dict(inputs or {})
        self.proactive_inputs = self.inputs if proactive_inputs is None else dict(proactive_inputs)
        self.context = context
        self.interrupts = AskUser() if interrupts == "user" else interrupts
        self.rewrites_history = rewrites_history
        self._config: RunnableConfig = {**(config or {}), "recursion_limit": max_steps}
        channel = app.channels.get(self.output_key) if isinstance(app, Pregel) else None
        # Messages that are only those of the last step need not hold the history.
        self._accumulates = channel is not None and not isinstance(channel, LastValue)
        self._player: Player
        if isinstance(app, RemoteGraph):
            if simulate_tools:
                raise ConfigError("simulate_tools: the tools of a deployment cannot be replaced from here")
            self._player = RemotePlayer(app, self.name, timeout=timeout)
        else:
            if isinstance(app, Pregel):
                app = with_simulated_tools(app, self.name, simulate_tools or {})
            elif simulate_tools:
                raise ConfigError(f"simulate_tools: {self.name!r} is no compiled graph; use is_simulating in its tools")
            self._player = LocalPlayer(app, self.name, timeout=timeout, interruptible=self.interrupts is not None)

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, *, inputs: Mapping[str, Any] | None = None
    ) -> tuple[list[BaseMessage], Memory]:
        """The app's reply, in a simulation. inputs: further state keys, of this call alone.

        Raises AppError, which names the app and the node.
        """
        with simulating(True):
            return await self._respond(messages, memory, inputs)

    def state_of(self, memory: Memory) -> dict[str, Any]:
        """The app's state after its last turn, without the messages, for judges (`Conversation.state`)."""
        return {key: unpack(_SERDE, text) for key, text in memory.get("state", {}).items()}

    async def fork(self, thread: RunnableConfig) -> tuple[list[BaseMessage], Memory]:
        """The messages of a live thread, and the assistant's memory of it: what a lookahead begins from.

        thread: the config of the app's thread (`{"configurable": {"thread_id": ...}}`, and a checkpoint_id if it is
            not the last). Nothing is written to it. Raises ConfigError if there is no such thread.
        """
        if not (thread.get("configurable") or {}).get("thread_id"):
            raise ConfigError('thread: a config {"configurable": {"thread_id": ...}} is needed')
        values, interrupts, branch = await self._player.fork(thread)
        messages = _as_messages(self._part(values))
        return messages, self._memory(branch, interrupts, values, len(messages))

    async def commit(self, memory: Memory) -> None:
        """Make what came of a fork the live thread's own, as its next checkpoint, and write what it put in the store.

        Raises RolloutError if the thread has gone on since `fork`, ConfigError if the memory is of no thread.
        """
        await self._player.commit(memory.get("branch", {}))

    async def perform(
        self, messages: Sequence[BaseMessage], memory: Memory, reply: Sequence[BaseMessage], after: Memory
    ) -> tuple[list[BaseMessage], Memory]:
        """Do in earnest what a reply did in simulation: run the tools that were stood in for, in their order.

        messages, memory: as `respond` was given them. reply, after: as it returned them. Where a tool gives something
        else than what stood in for it, the app goes on from there, in earnest. Returns the reply that holds, and the
        memory. Raises AppError if a tool fails and the app does not handle it.
        """
        done = list(reply)
        differs = False
        for index, message in enumerate(done):
            if not isinstance(message, ToolMessage):
                if differs:
                    return await self._go_on(messages, memory, done[:index])
            elif message.additional_kwargs.get(SIMULATED):
                with simulating(False):
                    result = await self._run_tool(message, [*messages, *done[:index]], after)
                differs = differs or text_of(result) != text_of(message)
                done[index] = result.model_copy(update={"id": message.id})
        return await self._go_on(messages, memory, done) if differs else (done, after)

    async def aclose(self) -> None:
        """Delete the threads that were made on a deployment. For every other app there is nothing to do."""
        if isinstance(self._player, RemotePlayer):
            await self._player.delete_threads()

    async def _respond(
        self, messages: Sequence[BaseMessage], memory: Memory, inputs: Mapping[str, Any] | None = None
    ) -> tuple[list[BaseMessage], Memory]:
        branch, asked, seen = memory.get("branch", {}), memory.get("asked"), memory.get("seen", 0)
        seed = memory.get("seed", 0)
        new = with_ids(messages[seen:], messages[:seen], seed)
        kept = [message.model_copy() for message in new]  # An app may change what it is given.
        given: Any = self._input(list(messages), new, memory.get("proactive", False), inputs or {})
        if asked and isinstance(self.interrupts, AskUser):
            words = next((text_of(message) for message in reversed(new) if message.type == "human"), "")
            answers = {key: self.interrupts.resume(words, unpack(_SERDE, value)) for key, value in asked.items()}
            given, kept = Command(resume=answers), []
        with seeded(seed):
            played = await self._play(branch, given)
        reply = self._reply([*_as_messages(self._part(played.before)), *kept], played.values)
        if played.interrupts and isinstance(self.interrupts, AskUser):
            questions = (self.interrupts.show(one.value) for one in played.interrupts)
            reply.append(AIMessage("\n\n".join(questions)))
        if not reply:
            raise AppError(f"app {self.name!r}: it returned no reply, under {self.output_key!r}, to the user's message")
        return reply, self._memory(played.branch, played.interrupts, played.values, len(messages) + len(reply))

    async def _play(self, branch: Mapping[str, Any], given: Any) -> Played:
        context = context_around() if self.context is None else self.context
        first = played = await self._player.play(branch, given, self._config, context)
        for _ in range(_MOST_INTERRUPTS):
            if not played.interrupts or isinstance(self.interrupts, AskUser):
                return replace(played, before=first.before)
            if self.interrupts is None:
                asked = question_in(played.interrupts[0].value)[:200]
                raise AppError(f"app {self.name!r} interrupts with {asked!r}: say by `interrupts` what answers it")
            answers = {}
            for one in played.interrupts:
                answer = self.interrupts(one.value)
                answers[one.id] = await answer if inspect.isawaitable(answer) else answer
            played = await self._player.play(played.branch, Command(resume=answers), self._config, context)
        raise AppError(f"app {self.name!r}: it still interrupts after {_MOST_INTERRUPTS} answers")

    def _input(
        self, messages: list[BaseMessage], new: list[BaseMessage], proactive: bool, more: Mapping[str, Any]
    ) -> Any:
        if isinstance(self.app, BaseChatModel):
            return new
        inputs = {**(self.proactive_inputs if proactive else self.inputs), **more}
        given = {key: value(messages) if callable(value) else value for key, value in inputs.items()}
        return given if self.input_key is None else {self.input_key: list(new), **given}

    def _part(self, values: Any) -> Any:
        return values.get(self.output_key) if isinstance(values, Mapping) else values

    def _reply(self, history: list[BaseMessage], values: Any) -> list[BaseMessage]:
        if isinstance(values, Mapping) and self.output_key not in values:
            keys = ", ".join(map(str, values)) or "none"
            raise AppError(f"app {self.name!r}: its output has no key {self.output_key!r}; its keys are {keys}")
        after = _as_messages(self._part(values))
        known = {message.id for message in history if message.id}
        if [_identity(message) for message in after[: len(history)]] == [_identity(message) for message in history]:
            reply = after[len(history) :]
        elif self.rewrites_history or not self._accumulates:
            reply = [message for message in after if message.id not in known]
        else:
            raise AppError(
                f"app {self.name!r}: it changed or removed earlier messages; rewrites_history=True allows it"
            )
        for message in reply:
            if not isinstance(message, AIMessage | ToolMessage | SystemMessage):
                raise AppError(
                    f"app {self.name!r}: there is a {message.type} message in its reply: {text_of(message)[:80]!r}"
                )
        return [message for message in reply if not isinstance(message, SystemMessage)]

    def _memory(self, branch: dict[str, Any], interrupts: Sequence[Interrupt], values: Any, seen: int) -> Memory:
        memory: Memory = {"branch": branch}
        if "thread" in branch or "remote" in branch:
            memory["seen"] = seen
        if interrupts:
            memory["asked"] = {one.id: pack(_SERDE, one.value) for one in interrupts}
        if isinstance(values, Mapping):
            kept = {key: value for key, value in values.items() if key not in (self.output_key, "__interrupt__")}
            memory["state"] = {key: text for key, value in kept.items() if (text := _packed(value)) is not None}
        return memory

    async def _go_on(
        self, messages: Sequence[BaseMessage], memory: Memory, done: list[BaseMessage]
    ) -> tuple[list[BaseMessage], Memory]:
        with simulating(False):
            more, after = await self._respond([*messages, *done], memory)
        return [*done, *more], after

    async def _run_tool(self, message: ToolMessage, messages: Sequence[BaseMessage], after: Memory) -> ToolMessage:
        call = next(
            call
            for one in reversed(messages)
            for call in getattr(one, "tool_calls", ())
            if call["id"] == message.tool_call_id
        )
        assert isinstance(self.app, Pregel)
        graph, node = next(pair for pair in tool_nodes(self.app) if call["name"] in pair[1].tools_by_name)
        # A graph of the tool alone, so that it gets the state, store and context that the app's tools are given.
        alone = StateGraph(getattr(graph, "builder").state_schema)  # noqa: B009
        alone.add_node("tools", node)
        alone.add_edge(START, "tools")
        state = self.state_of(after) | {node._messages_key: [*messages, AIMessage("", tool_calls=[call])]}
        context = context_around() if self.context is None else self.context
        player = LocalPlayer(alone.compile(store=graph.store), self.name, timeout=None, interruptible=False)
        values = (await player.play({}, state, self._config, context)).values
        return values[node._messages_key][-1]


_SERDE = JsonPlusSerializer()
_MOST_INTERRUPTS = 20


def _packed(value: Any) -> str | None:
    """None for what cannot be serialized, such as a connection that an app has in its state."""
    try:
        return pack(_SERDE, value)
    except (TypeError, ValueError):
        return None


def _as_messages(value: Any) -> list[BaseMessage]:
    if value is None:
        return []
    if isinstance(value, str):
        return [AIMessage(value)]
    several = value if isinstance(value, list | tuple) else [value]
    return [
        message_chunk_to_message(message) if isinstance(message, BaseMessageChunk) else message
        for message in convert_to_messages(several)
    ]


def _identity(message: BaseMessage) -> tuple[str, str | None, str]:
    return message.type, message.id, str(message.content)
