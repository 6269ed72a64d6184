"""Existing agents as assistants: any Runnable, compiled LangGraph app or deployment."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.channels import LastValue
from langgraph.pregel import Pregel
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command, Interrupt

from collab_agents._internal.containment import PASS_THROUGH, Late, contained, within
from collab_agents._internal.copies import branch_copy, own_copy
from collab_agents._internal.reasons import reason_of
from collab_agents._internal.sealing import load_key
from collab_agents._internal.seeds import Calls, seeded
from collab_agents.assistants.apps.branches import packed_in, types_in
from collab_agents.assistants.apps.driver import AppError, AppResult, Driver, context_around, without_coordinates
from collab_agents.assistants.apps.interrupts import AskUser, question_in
from collab_agents.assistants.apps.local import LocalDriver
from collab_agents.assistants.apps.packing import check_packed, pack, unpack
from collab_agents.assistants.apps.remote import RemoteDriver
from collab_agents.assistants.apps.reply import as_messages, reply_in
from collab_agents.assistants.apps.simulated_tools import WAY_OUT, AppTurn, Mode, intercept_tools, is_simulating, taking
from collab_agents.errors import ConfigError
from collab_agents.messages import as_given, as_internal, is_users, text_of, with_ids
from collab_agents.participants import AssistantContext, Executed, Memory


class GraphAssistant:
    """An agent that exists already as the assistant: a compiled LangGraph app, any other Runnable, or a `RemoteGraph`.

    An app with a checkpointer keeps what it knows in a thread. Every turn is played on a fork of that thread, in
    memory, which goes on in the assistant's memory: futures do not see each other, and nothing is written to the app's
    own saver, store or node caches. `respond` simulates a turn, `execute` makes a chosen one real. `fork` begins from
    a live thread, `commit` puts a branch's thread in its place. An app without a checkpointer is given the whole
    conversation each turn, one with it what it has not seen. Of a deployment, threads are copied there; `aclose`
    deletes the copies.

    app: called with `{input_key: messages}` and `inputs`. A chat model is called with the messages alone.
    input_key: the state key for messages; None if they are handed over by `inputs` alone.
    input_as: "text" hands over the user's last words under input_key, instead of the messages.
    output_key: where the reply is: a key of the state, by default input_key; a dotted path into the final state, such
        as "structured_response.text"; or a function of the final state. What is there is messages, one, or a text. An
        app whose messages hold its history too replies with those that are new: several, tool calls and results
        among them.
    inputs: other state keys: a value, or a function of the conversation's messages.
    proactive_inputs: the same, instead, for candidates that are sampled proactively.
    config, context: passed through, to every run; a simulated one is given copies of `configurable` and of the
        context. Without a context, the one of the graph around is passed on.
    interrupts: what answers the app's interrupts: a function of the interrupt's value (async or not) that returns what
        to resume with, or "user": the question is shown to the user, whose next message answers it (see `AskUser`).
        By default an interrupt is an error. A function is asked again when the reply is executed, and may then return
        None to leave the answer to the caller of `execute`.
    simulate_tools: tools with side effects, by name, and what each gives in a simulation: a function of the tool's
        arguments (async or not) or a value. `simulate_as` marks a tool where it is written. Whatever else an app does,
        it does in every branch.
    max_steps: of one turn (LangGraph's recursion limit). timeout: seconds for one turn and for one answer to an
        interrupt; None waits for ever.
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
        input_as: Literal["messages", "text"] = "messages",
        output_key: str | Callable[[Mapping[str, Any]], Any] | None = None,
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
        if timeout is not None and timeout <= 0:
            raise ConfigError(f"timeout is {timeout}: seconds above 0, or None, are needed")
        if input_as not in ("messages", "text"):
            raise ConfigError(f"input_as is {input_as!r}: 'messages' or 'text' is needed")
        self.app = app
        self.name = name or app.get_name()
        self.input_key = input_key
        self.input_as = input_as
        self.output_key = output_key or (input_key if input_as == "messages" else None) or "messages"
        self.output_name = "what output_key gives" if callable(self.output_key) else repr(self.output_key)
        self.inputs = dict(inputs or {})
        self.proactive_inputs = self.inputs if proactive_inputs is None else dict(proactive_inputs)
        self.context = context
        self.interrupts = AskUser() if interrupts == "user" else interrupts
        self.rewrites_history = rewrites_history
        self.timeout = timeout
        self._config: RunnableConfig = {**(config or {}), "recursion_limit": max_steps}
        if "configurable" in self._config:
            self._config["configurable"] = without_coordinates(self._config["configurable"])
        self.simulate_tools = dict(simulate_tools or {})
        self._shared: set[str] = set()
        load_key()
        self._types = types_in(app) if isinstance(app, Pregel) else frozenset()
        channels = app.channels if isinstance(app, Pregel) else {}
        # A key of the state; else it is found in the final state by a path or a function.
        self._output: str | None = None
        if isinstance(self.output_key, str) and (self.output_key in channels or "." not in self.output_key):
            self._output = self.output_key
        channel = channels.get(self._output) if self._output else None
        # Messages that are only those of the last step need not hold the history.
        self._accumulates = channel is not None and not isinstance(channel, LastValue)
        self._driver: Driver
        if isinstance(app, RemoteGraph):
            if simulate_tools:
                raise ConfigError("simulate_tools: the tools of a deployment cannot be replaced from here")
            self._driver = RemoteDriver(app, self.name, timeout=timeout)
        else:
            if isinstance(app, Pregel):
                intercept_tools(app, self.name, self.simulate_tools)
            elif simulate_tools:
                raise ConfigError(f"simulate_tools: {self.name!r} is no compiled graph; {WAY_OUT}")
            self._driver = LocalDriver(app, self.name, timeout=timeout, interruptible=self.interrupts is not None)

    async def respond(
        self,
        messages: Sequence[BaseMessage],
        memory: Memory,
        context: AssistantContext,
        *,
        inputs: Mapping[str, Any] | None = None,
    ) -> tuple[list[BaseMessage], Memory]:
        """The app's reply, in a simulation. inputs: further state keys, of this call alone.

        Raises AppError, which names the app and the node.
        """
        self._check(memory)
        executable = context.executable and not isinstance(self.app, RemoteGraph)
        turn = AppTurn(Mode.pausing if executable else Mode.simulated, self.simulate_tools)
        with taking(turn), seeded(context.seed) as calls:
            given, new = self._given(messages, memory, context, inputs or {})
            result = await self._drive(memory.get("branch", {}), given, turn, calls)
        reply, after = self._finished(messages, context.seed, new, result, in_words=True)
        if turn.pretended and result.kept is not None:
            how = {"seed": context.seed, "proactive": context.proactive}
            after["unexecuted"] = {"branch": result.kept, "tools": turn.simulated, **how}
        return reply, after

    def state_of(self, memory: Memory) -> dict[str, Any]:
        """The app's state after its last turn, for judges (`Conversation.state`).

        Without the messages, and without what cannot be serialized, such as an open connection.
        """
        self._check(memory)
        return {key: unpack(text) for key, text in memory.get("state", {}).items()}

    async def fork(self, thread: RunnableConfig) -> tuple[list[BaseMessage], Memory]:
        """The messages of a live thread, and the assistant's memory of it: what a lookahead begins from.

        thread: the config of the app's thread (`{"configurable": {"thread_id": ...}}`, and a checkpoint_id if it is
            not the last). Nothing is written to it. A thread that does not exist yet has no messages. Raises
            ConfigError if the app keeps no threads, there is no such checkpoint, or the thread waits for an answer
            that the user is not asked for.
        """
        if not (thread.get("configurable") or {}).get("thread_id"):
            raise ConfigError('thread: a config {"configurable": {"thread_id": ...}} is needed')
        values, interrupts, branch = await self._driver.fork(thread)
        if interrupts and not isinstance(self.interrupts, AskUser):
            asked = question_in(interrupts[0].value)[:200]
            raise ConfigError(
                f"app {self.name!r}: its thread waits for an answer to {asked!r}: interrupts='user' gives it"
            )
        messages = self._history(values)
        return messages, self._memory(branch, interrupts, values, messages)

    async def commit(self, memory: Memory) -> Memory:
        """Make what came of a fork the live thread's own, as its next checkpoint, and write what it put in the store.

        Returns the memory to go on with. Raises RolloutError if the thread has gone on since `fork`, ConfigError if
        the memory is of no fork or of a turn that was simulated and not executed.
        """
        self._check(memory)
        branch = memory.get("branch", {})
        if branch.get("pretended"):
            raise ConfigError(f"app {self.name!r}: what was simulated cannot be committed: execute the reply first")
        return memory | {"branch": await self._driver.commit(branch)}

    async def execute(
        self,
        messages: Sequence[BaseMessage],
        memory: Memory,
        reply: Sequence[BaseMessage],
        after: Memory,
        *,
        context: AssistantContext | None = None,
        answers: Mapping[str, Any] | None = None,
        in_words: bool = True,
    ) -> Executed:
        """Execute a reply that was chosen: call for real the tools that were simulated, inside the app, each once.

        messages, memory, context: as `respond` was given them. reply, after: as it returned them.

        Execution resumes at the first simulated call or policy answer and uses real results. Nothing before it is
        repeated. A reply in which nothing was simulated is returned unchanged.

        Interrupts are asked anew. `interrupts` answers them if it is a function. Otherwise the app waits, and `execute`
        is called again with the memory it returned and the answers, by the interrupts' ids; or, with interrupts="user"
        and in_words, the reply ends with the question in words, which the user's next message answers.

        What a branch that did not begin with `fork` has put into the app's store and caches is written there. Inside
        another simulation nothing is executed.

        Raises AppError if the app fails; its `after` is the memory to go on with, so that nothing is done twice.
        RolloutError, before anything is done, if the live thread has gone on since `fork`, ConfigError if what came
        before the reply was only simulated.
        """
        if is_simulating():
            return Executed(list(reply), after)
        self._check(memory)
        self._check(after)
        if memory.get("branch", {}).get("pretended"):
            raise ConfigError(f"app {self.name!r}: the turns before this reply were simulated and not executed")
        await self._driver.check_unchanged(after["branch"])
        unexecuted = after.get("unexecuted")
        if unexecuted is None and not (answers or (after.get("asked") and not in_words)):
            return Executed(list(reply), await self._settled(after))
        if unexecuted is None:  # The app waits, and nothing was simulated.
            unexecuted = {"branch": after["branch"], "tools": None}
            if not answers:
                return Executed(self._without_question(reply), after, _asked(after))
        how = {key: unexecuted[key] for key in ("seed", "proactive") if key in unexecuted}
        context = replace(context or AssistantContext(), **how)
        branch, calls = unexecuted["branch"], Calls(unexecuted["branch"].get("calls", ()))
        turn = AppTurn(Mode.executed, self.simulate_tools, allowed=None if answers else unexecuted["tools"])

        def left(at: Mapping[str, Any]) -> Memory:
            """What a memory needs for the execution to go on."""
            return {"unexecuted": {"branch": {**at, "calls": calls.dump()}, "tools": turn.allowed, **how}}

        try:
            with taking(turn), seeded(context.seed, calls):
                given, new = self._given(messages, memory, context)
                if branch:  # Otherwise the app keeps no thread, and is called again.
                    given = Command(resume=dict(answers)) if answers else None
                result = await self._drive(branch, given, turn, calls)
        except AppError as error:
            if error.branch is not None:
                error.after = after | left(error.branch)
            raise
        try:
            result.before = await self._driver.values(memory.get("branch", {}))
            waits = bool(result.interrupts) and not (in_words and isinstance(self.interrupts, AskUser))
            reply, done = self._finished(messages, context.seed, new, result, in_words=not waits)
            if waits:
                return Executed(reply, done | left(result.branch), result.interrupts)
            return Executed(reply, await self._settled(done))
        except PASS_THROUGH:
            raise
        except BaseException as error:
            failed = error if isinstance(error, AppError) else AppError(f"app {self.name!r}: {reason_of(error)}")
            if result.kept:
                failed.after = after | left(result.kept)
            raise failed from error

    async def aclose(self) -> None:
        """Delete the threads that were made on a deployment. For every other app there is nothing to do."""
        if isinstance(self._driver, RemoteDriver):
            await self._driver.delete_threads()

    def _check(self, memory: Memory) -> None:
        """Raises ConfigError for a memory that others may have written and that does more than it says when read."""
        texts = [*memory.get("asked", {}).values(), *memory.get("state", {}).values()]
        texts += [memory["history"]] if "history" in memory else []
        for branch in (memory.get("branch", {}), memory.get("unexecuted", {}).get("branch", {})):
            texts += packed_in(branch)
        check_packed(texts, self._types)

    async def _settled(self, after: Memory) -> Memory:
        branch = after["branch"]
        return after if "since" in branch else after | {"branch": await self._driver.settle(branch)}

    def _given(
        self,
        messages: Sequence[BaseMessage],
        memory: Memory,
        context: AssistantContext,
        inputs: Mapping[str, Any] | None = None,
    ) -> tuple[Any, list[BaseMessage]]:
        """What the app is called with, and the messages in it."""
        asked = memory.get("asked")
        old, new = self._split(messages, memory.get("seen"))
        new = with_ids(new, old, context.seed)
        if asked and isinstance(self.interrupts, AskUser):
            words = next((text_of(message) for message in reversed(new) if is_users(message)), "")
            answers = {key: self.interrupts.resume(words, unpack(value)) for key, value in asked.items()}
            return Command(resume=answers), []
        known = [*unpack(memory["history"]), *new] if "history" in memory else [*new]
        given = self._input(list(messages), known, context.proactive, inputs or {})
        said = self._messages(given.get(self._output)) if isinstance(given, Mapping) and self._output else []
        return given, [message.model_copy() for message in said]  # An app may change what it is given.

    def _finished(
        self,
        messages: Sequence[BaseMessage],
        seed: int,
        new: Sequence[BaseMessage],
        result: AppResult,
        *,
        in_words: bool,
    ) -> tuple[list[BaseMessage], Memory]:
        """The reply that came of a turn, with the question that the app waits with put in words, and the memory."""
        reply = self._reply([*self._history(result.before), *new], result.values)
        if in_words and result.interrupts and isinstance(self.interrupts, AskUser):
            questions = (self.interrupts.show(one.value) for one in result.interrupts)
            reply.append(AIMessage("\n\n".join(questions), additional_kwargs={_QUESTION: True}))
        if not result.interrupts and not any(message.type in ("ai", "tool") for message in reply):
            raise AppError(f"app {self.name!r}: it returned no reply, under {self.output_name}, to the user's message")
        reply = with_ids(reply, messages, seed)
        return reply, self._memory(result.branch, result.interrupts, result.values, reply)

    def _without_question(self, reply: Sequence[BaseMessage]) -> list[BaseMessage]:
        return [message for message in reply if not message.additional_kwargs.get(_QUESTION)]

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

    async def _drive(self, branch: Mapping[str, Any], given: Any, turn: AppTurn, calls: Calls) -> AppResult:
        context = context_around() if self.context is None else self.context
        config = self._config
        if turn.mode is not Mode.executed:
            context = self._own("context", context)
            if "configurable" in config:
                config = {**config, "configurable": self._own("configurable", config["configurable"])}
        result = await self._driver.drive(branch, given, config, context, turn, calls)
        before, kept = result.before, result.kept
        for _ in range(_MOST_INTERRUPTS):
            if turn.mode is Mode.executed:
                kept = result.kept
            if result.interrupts and self.interrupts is None and turn.mode is not Mode.executed:
                asked = question_in(result.interrupts[0].value)[:200]
                raise AppError(f"app {self.name!r} interrupts with {asked!r}: say by `interrupts` what answers it")
            if not result.interrupts or not callable(self.interrupts):
                break
            turn.pretended = turn.mode is not Mode.executed
            try:
                answers = {one.id: await self._answer(self.interrupts, one.value) for one in result.interrupts}
            except AppError as error:
                error.branch = kept
                raise
            if turn.mode is Mode.executed and None in answers.values():
                break
            turn.came_back()
            result = await self._driver.drive(result.branch, Command(resume=answers), config, context, turn, calls)
        else:
            failed = AppError(f"app {self.name!r}: it still interrupts after {_MOST_INTERRUPTS} answers")
            failed.branch = kept
            raise failed
        return replace(result, before=before, kept=kept)

    async def _answer(self, policy: Callable[[Any], Any], value: Any) -> Any:
        async def answer() -> Any:
            given = policy(value)
            return await given if inspect.isawaitable(given) else given

        try:
            with contained():
                return await within(self.timeout, answer())
        except PASS_THROUGH:
            raise
        except BaseException as error:
            late = isinstance(error, Late) and self.timeout is not None
            reason = f"no answer within {self.timeout:g} s" if late else reason_of(error)
            raise AppError(f"app {self.name!r}: interrupts, asked {question_in(value)[:80]!r}: {reason}") from error

    def _own(self, name: str, value: Any) -> Any:
        """A copy for one branch. What cannot be copied is shared by all of them, and a warning says so once."""
        copied, shared = branch_copy(value, name)
        if new := [one for one in shared if one not in self._shared]:
            self._shared.update(new)
            warnings.warn(
                f"app {self.name!r}: {', '.join(new)} cannot be copied, so all candidates and futures share it: "
                "what one of them changes there, the others see",
                stacklevel=2,
            )
        return copied

    def _input(
        self, messages: list[BaseMessage], new: list[BaseMessage], proactive: bool, more: Mapping[str, Any]
    ) -> Any:
        if isinstance(self.app, BaseChatModel):
            return new
        inputs = {**(self.proactive_inputs if proactive else self.inputs), **more}
        given = {key: value(messages) if callable(value) else own_copy(value) for key, value in inputs.items()}
        if self.input_key is None:
            return given
        words = next((text_of(message) for message in reversed(new) if is_users(message)), "")
        return {self.input_key: words if self.input_as == "text" else [as_given(one) for one in new], **given}

    def _part(self, values: Any) -> Any:
        """What of the app's output is the reply, or holds it."""
        if not isinstance(values, Mapping):
            return values
        if self._output is not None:
            return values.get(self._output)
        try:
            return self.output_key(values) if callable(self.output_key) else _at_path(values, self.output_key)
        except Exception as error:
            keys = ", ".join(map(str, values)) or "none"
            what = "output_key failed" if callable(self.output_key) else f"its output has no {self.output_key!r}"
            raise AppError(f"app {self.name!r}: {what}: {reason_of(error)}; its keys are {keys}") from error

    def _history(self, values: Any) -> list[BaseMessage]:
        """The messages in the values of the app's thread."""
        key = self._output or self.input_key
        return self._messages(values.get(key)) if isinstance(values, Mapping) and key else []

    def _reply(self, history: list[BaseMessage], values: Any) -> list[BaseMessage]:
        if isinstance(values, Mapping) and self._output is not None and self._output not in values:
            keys = ", ".join(map(str, values)) or "none"
            raise AppError(f"app {self.name!r}: its output has no key {self._output!r}; its keys are {keys}")
        part = self._part(values)
        reply: list[BaseMessage] | None = self._messages(part)
        # A text is all reply, even one that was the reply before.
        if reply and not isinstance(part, str) and (self._output is not None or not isinstance(values, Mapping)):
            reply = reply_in(reply, history, accumulates=self._accumulates, rewrites=self.rewrites_history)
        if reply is None:
            raise AppError(
                f"app {self.name!r}: it changed or removed earlier messages; rewrites_history=True allows it"
            )
        return [as_internal(message) for message in reply if not isinstance(message, SystemMessage)]

    def _messages(self, value: Any) -> list[BaseMessage]:
        try:
            return as_messages(value)
        except Exception as error:
            what = f"{self.output_name} is {str(value)[:80]!r}"
            raise AppError(f"app {self.name!r}: {what}: messages, one, or a text are needed") from error

    def _memory(
        self,
        branch: Mapping[str, Any],
        interrupts: Sequence[Interrupt],
        values: Any,
        said: Sequence[BaseMessage],
    ) -> Memory:
        memory: Memory = {"branch": dict(branch)}
        if self.rewrites_history and self._accumulates and not ("thread" in branch or "remote" in branch):
            # As whoever calls the app plainly would hand back what it returned.
            memory["history"] = pack(self._messages(self._part(values)))
        if said and ("history" in memory or "thread" in branch or "remote" in branch):
            memory["seen"] = said[-1].id
        if interrupts:
            memory["asked"] = {one.id: pack(one.value) for one in interrupts}
        if isinstance(values, Mapping):
            kept = {key: value for key, value in values.items() if key not in (self._output, "__interrupt__")}
            memory["state"] = {key: text for key, value in kept.items() if (text := _packed(value)) is not None}
        return memory


_MOST_INTERRUPTS = 20
_QUESTION = "question"
"""The key in a message's `additional_kwargs` that says that it is an interrupt's question, put in words."""


def _asked(memory: Memory) -> list[Interrupt]:
    return [Interrupt(value=unpack(value), id=key) for key, value in memory["asked"].items()]


def _at_path(values: Any, path: str) -> Any:
    """What is at a dotted path of keys, attributes and list indices."""
    for part in path.split("."):
        if isinstance(values, Mapping):
            values = values[part]
        elif isinstance(values, list | tuple):
            values = values[int(part)]
        else:
            values = getattr(values, part)
    return values


def _packed(value: Any) -> str | None:
    """None for what cannot be serialized, such as a connection that an app has in its state."""
    try:
        return pack(value)
    except (TypeError, ValueError):
        return None
