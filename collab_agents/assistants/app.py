"""Existing agents as assistants: any Runnable, compiled LangGraph app or deployment."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.channels import LastValue
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.pregel import Pregel
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command, Interrupt

from collab_agents.assistants.interrupts import AskUser, question_in
from collab_agents.assistants.performing import Performed, call_of, perform_tool
from collab_agents.assistants.playing import (
    AppError,
    LocalPlayer,
    Played,
    Player,
    RemotePlayer,
    context_around,
    without_coordinates,
)
from collab_agents.assistants.reading import as_messages, reply_in
from collab_agents.assistants.simulation import SIMULATED, is_simulating, simulating, with_simulated_tools
from collab_agents.assistants.threads import pack, unpack
from collab_agents.errors import ConfigError
from collab_agents.memory import Memory, own_copy
from collab_agents.messages import text_of, with_ids
from collab_agents.seeds import seeded


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
        self.timeout = timeout
        self._config: RunnableConfig = {**(config or {}), "recursion_limit": max_steps}
        if "configurable" in self._config:
            self._config["configurable"] = without_coordinates(self._config["configurable"])
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
        with simulating(True) as out_of_reach:
            reply, after = await self._respond(messages, memory, inputs)
        return reply, after | ({"out_of_reach": sorted(out_of_reach)} if out_of_reach else {})

    def state_of(self, memory: Memory) -> dict[str, Any]:
        """The app's state after its last turn, for judges (`Conversation.state`).

        Without the messages, and without what cannot be serialized, such as an open connection.
        """
        return {key: unpack(_SERDE, text) for key, text in memory.get("state", {}).items()}

    async def fork(self, thread: RunnableConfig) -> tuple[list[BaseMessage], Memory]:
        """The messages of a live thread, and the assistant's memory of it: what a lookahead begins from.

        thread: the config of the app's thread (`{"configurable": {"thread_id": ...}}`, and a checkpoint_id if it is
            not the last). Nothing is written to it. Raises ConfigError if there is no such thread, or it waits for an
            answer that the user is not asked for.
        """
        if not (thread.get("configurable") or {}).get("thread_id"):
            raise ConfigError('thread: a config {"configurable": {"thread_id": ...}} is needed')
        values, interrupts, branch = await self._player.fork(thread)
        if interrupts and not isinstance(self.interrupts, AskUser):
            asked = question_in(interrupts[0].value)[:200]
            raise ConfigError(
                f"app {self.name!r}: its thread waits for an answer to {asked!r}: interrupts='user' gives it"
            )
        messages = self._messages(self._part(values))
        return messages, self._memory(branch, interrupts, values, messages)

    async def commit(self, memory: Memory) -> Memory:
        """Make what came of a fork the live thread's own, as its next checkpoint, and write what it put in the store.

        Returns the memory to go on with. Raises RolloutError if the thread has gone on since `fork`, ConfigError if the
        memory is of no fork.
        """
        return memory | {"branch": await self._player.commit(memory.get("branch", {}))}

    async def perform(
        self, messages: Sequence[BaseMessage], memory: Memory, reply: Sequence[BaseMessage], after: Memory
    ) -> tuple[list[BaseMessage], Memory]:
        """Do in earnest what a reply did in simulation: run the tools that were stood in for, in their order.

        messages, memory: as `respond` was given them. reply, after: as it returned them. Returns the reply that holds,
        and the memory. Where a tool gives something else than what stood in for it, changes other state keys, or
        fails (which its result then says), the app goes on from there, in earnest. Inside a simulation nothing is
        done. A process that is killed meanwhile may leave tools that have run; they run again if the turn does.
        Raises AppError for tools that were stood in for where they cannot be found.
        """
        if is_simulating():
            return list(reply), after
        if names := after.get("out_of_reach"):
            raise AppError(
                f"app {self.name!r}: {', '.join(names)} cannot be run in earnest: it is in no ToolNode of the app's own"
            )
        if memory.get("asked") and any(message.additional_kwargs.get(SIMULATED) for message in reply):
            # The turn answered an interrupt: with the same answer the app does in earnest what it did.
            with simulating(False):
                return await self._respond(messages, memory)
        done, differs = list(reply), False
        update: dict[str, Any] = {}
        for index, message in enumerate(done):
            if not isinstance(message, ToolMessage):
                if differs or update:
                    return await self._go_on(messages, memory, done[:index], after, update)
            elif message.additional_kwargs.get(SIMULATED):
                performed = await self._perform_one(message, [*messages, *done[:index]], after)
                differs = differs or text_of(performed.result) != text_of(message)
                done[index] = performed.result.model_copy(update={"id": message.id})
                after = after | {"branch": {**after["branch"], **performed.store}}
                update |= performed.update
        return done, after

    async def aclose(self) -> None:
        """Delete the threads that were made on a deployment. For every other app there is nothing to do."""
        if isinstance(self._player, RemotePlayer):
            await self._player.delete_threads()

    async def _respond(
        self, messages: Sequence[BaseMessage], memory: Memory, inputs: Mapping[str, Any] | None = None
    ) -> tuple[list[BaseMessage], Memory]:
        branch, asked, seed = memory.get("branch", {}), memory.get("asked"), memory.get("seed", 0)
        old, new = self._split(messages, memory.get("seen"))
        new = with_ids(new, old, seed)
        given: Any = self._input(list(messages), new, memory.get("proactive", False), inputs or {})
        kept = self._messages(given.get(self.output_key)) if isinstance(given, Mapping) else []
        kept = [message.model_copy() for message in kept]  # An app may change what it is given.
        if asked and isinstance(self.interrupts, AskUser):
            words = next((text_of(message) for message in reversed(new) if message.type == "human"), "")
            answers = {key: self.interrupts.resume(words, unpack(_SERDE, value)) for key, value in asked.items()}
            given, kept = Command(resume=answers), []
        with seeded(seed):
            played = await self._play(self._player, branch, given)
        reply = self._reply([*self._messages(self._part(played.before)), *kept], played.values)
        if played.interrupts and isinstance(self.interrupts, AskUser):
            questions = (self.interrupts.show(one.value) for one in played.interrupts)
            reply.append(AIMessage("\n\n".join(questions)))
        if not reply:
            raise AppError(f"app {self.name!r}: it returned no reply, under {self.output_key!r}, to the user's message")
        reply = with_ids(reply, messages, seed)
        return reply, self._memory(played.branch, played.interrupts, played.values, reply)

    def _split(
        self, messages: Sequence[BaseMessage], seen: str | None
    ) -> tuple[Sequence[BaseMessage], Sequence[BaseMessage]]:
        """The conversation up to the message with the id, which the app knows, and what it has not seen."""
        if seen is None:
            return [], messages
        for index in range(len(messages), 0, -1):
            if messages[index - 1].id == seen:
                return messages[:index], messages[index:]
        raise AppError(
            f"app {self.name!r}: the conversation has lost the message that the app saw last ({seen}): "
            "begin without assistant_memory, and the app is given what there is"
        )

    async def _play(self, player: Player, branch: Mapping[str, Any], given: Any) -> Played:
        context = context_around() if self.context is None else self.context
        first = played = await player.play(branch, given, self._config, context)
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
            played = await player.play(played.branch, Command(resume=answers), self._config, context)
        raise AppError(f"app {self.name!r}: it still interrupts after {_MOST_INTERRUPTS} answers")

    def _input(
        self, messages: list[BaseMessage], new: list[BaseMessage], proactive: bool, more: Mapping[str, Any]
    ) -> Any:
        if isinstance(self.app, BaseChatModel):
            return new
        inputs = {**(self.proactive_inputs if proactive else self.inputs), **more}
        given = {key: value(messages) if callable(value) else own_copy(value) for key, value in inputs.items()}
        return given if self.input_key is None else {self.input_key: list(new), **given}

    def _part(self, values: Any) -> Any:
        return values.get(self.output_key) if isinstance(values, Mapping) else values

    def _reply(self, history: list[BaseMessage], values: Any) -> list[BaseMessage]:
        if isinstance(values, Mapping) and self.output_key not in values:
            keys = ", ".join(map(str, values)) or "none"
            raise AppError(f"app {self.name!r}: its output has no key {self.output_key!r}; its keys are {keys}")
        after = self._messages(self._part(values))
        reply = reply_in(after, history, accumulates=self._accumulates, rewrites=self.rewrites_history)
        if reply is None:
            raise AppError(
                f"app {self.name!r}: it changed or removed earlier messages; rewrites_history=True allows it"
            )
        for message in reply:
            if not isinstance(message, AIMessage | ToolMessage | SystemMessage):
                raise AppError(
                    f"app {self.name!r}: there is a {message.type} message in its reply: {text_of(message)[:80]!r}"
                )
        return [message for message in reply if not isinstance(message, SystemMessage)]

    def _messages(self, value: Any) -> list[BaseMessage]:
        try:
            return as_messages(value)
        except Exception as error:
            what = f"{self.output_key!r} is {str(value)[:80]!r}"
            raise AppError(f"app {self.name!r}: {what}: messages, one, or a text are needed") from error

    def _memory(
        self,
        branch: dict[str, Any],
        interrupts: Sequence[Interrupt],
        values: Any,
        said: Sequence[BaseMessage],
    ) -> Memory:
        memory: Memory = {"branch": branch}
        if said and ("thread" in branch or "remote" in branch):
            memory["seen"] = said[-1].id
        if interrupts:
            memory["asked"] = {one.id: pack(_SERDE, one.value) for one in interrupts}
        if isinstance(values, Mapping):
            kept = {key: value for key, value in values.items() if key not in (self.output_key, "__interrupt__")}
            memory["state"] = {key: text for key, value in kept.items() if (text := _packed(value)) is not None}
        return memory

    async def _perform_one(self, simulated: ToolMessage, before: list[BaseMessage], after: Memory) -> Performed:
        assert isinstance(self.app, Pregel)
        with simulating(False):
            return await perform_tool(
                self.app,
                self.name,
                call_of(simulated, before),
                before,
                state=self.state_of(after),
                branch=after["branch"],
                play=self._play,
                seconds=self.timeout,
            )

    async def _go_on(
        self,
        messages: Sequence[BaseMessage],
        memory: Memory,
        done: list[BaseMessage],
        after: Memory,
        update: Mapping[str, Any],
    ) -> tuple[list[BaseMessage], Memory]:
        """Play on in earnest after what was done, from where the turn began: the app is told what was done.

        after: with what the tools have put in the store. update: what they have changed in the app's state.
        """
        if "store" in after["branch"]:
            memory = memory | {"branch": {**memory.get("branch", {}), "store": after["branch"]["store"]}}
        with simulating(False):
            more, after = await self._respond([*messages, *done], memory, update)
        return [*done, *more], after


_SERDE = JsonPlusSerializer()
_MOST_INTERRUPTS = 20


def _packed(value: Any) -> str | None:
    """None for what cannot be serialized, such as a connection that an app has in its state."""
    try:
        return pack(_SERDE, value)
    except (TypeError, ValueError):
        return None
