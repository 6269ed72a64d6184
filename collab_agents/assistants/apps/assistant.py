"""Existing agents as assistants: any Runnable, compiled LangGraph app or deployment."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

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
from collab_agents.assistants.apps.branches import Kept, packed_in, types_in
from collab_agents.assistants.apps.driver import AppError, AppResult, Driver, context_around, without_coordinates
from collab_agents.assistants.apps.interrupts import AskUser, question_in
from collab_agents.assistants.apps.local import LocalDriver
from collab_agents.assistants.apps.packing import check_packed, pack, unpack
from collab_agents.assistants.apps.remote import RemoteDriver
from collab_agents.assistants.apps.reply import as_messages, reply_in
from collab_agents.assistants.apps.simulated_tools import WAY_OUT, AppTurn, Mode, intercept_tools, is_simulating, taking
from collab_agents.errors import ConfigError
from collab_agents.messages import as_given, as_internal, is_users, text_of, with_ids
from collab_agents.participants import Answers, AssistantContext, Executed, Memory

T = TypeVar("T")


class GraphAssistant:
    """An existing agent as the assistant: a compiled LangGraph app, any other Runnable, or a `RemoteGraph`.

    An app with a checkpointer keeps its state in a thread. Every turn runs on an in-memory fork of that thread, which
    is carried in the assistant's memory: futures do not see each other, and nothing is written to the app's own
    checkpointer, store or node caches. `respond` simulates a turn and `execute` makes a chosen reply real. `fork`
    starts from a live thread, and `commit` writes a branch back to it.

    An app with a checkpointer is given only the messages it has not seen; an app without one is given the whole
    conversation each turn. Threads of a deployment are copied on the deployment, and `aclose` deletes the copies.

    Args:
        app: The app to drive. It is called with `{input_key: messages}` and `inputs`. A chat model is called with the
            messages alone.
        input_key: The state key for the messages, or None if `inputs` provides them.
        input_as: "messages", or "text" to pass the user's last message as a string under `input_key`.
        output_key: Where the reply is: a key of the state (default: `input_key`), a dotted path into the final state
            such as "structured_response.text", or a function of the final state. The value may be a list of messages,
            a single message or a string. If the app's messages include its history, the reply consists of the new
            ones, tool calls and results included.
        inputs: Other state keys, each with a value or a function of the conversation's messages.
        proactive_inputs: Replaces `inputs` for candidates that are sampled proactively.
        config: Passed to every run. A simulated run gets a copy of `configurable`.
        context: Runtime context, passed to every run. A simulated run gets a copy. By default, the context of the
            enclosing graph is passed on.
        interrupts: How the app's interrupts are answered. A function (sync or async) receives the interrupt's value
            and returns the value to resume with. "user" or an `AskUser` shows the question to the user, whose next
            message answers it. By default, an interrupt is an error. A function is called again when the reply is
            executed, and may then return None to leave the answer to the caller of `execute`.
        simulate_tools: Tools with side effects, by name, each with its simulated result: a value, or a function (sync
            or async) of the tool's arguments. To mark a tool where it is defined, use `simulate_as`. Everything else
            the app does happens in every branch.
        max_steps: Maximum steps of one turn (LangGraph's recursion limit).
        timeout: Seconds for one turn and for one answer to an interrupt; None for no limit.
        rewrites_history: Whether the app may change or remove earlier messages, for example to summarise them.
            Otherwise that is an error.
        name: Name used in errors (default: the app's name).

    Raises:
        ConfigError: If an argument is invalid, or `simulate_tools` names a tool that the app does not have.

    Example:
        assistant = GraphAssistant(app, simulate_tools={"cancel_order": lambda order: f"order {order} is cancelled"})
        reply, memory = await assistant.respond([HumanMessage("Cancel order 7.")], {}, AssistantContext())
    """

    def __init__(
        self,
        app: Runnable[Any, Any],
        *,
        input_key: str | None = "messages",
        input_as: Literal["messages", "text"] = "messages",
        output_key: str | Callable[[Mapping[str, Any]], object] | None = None,
        inputs: Mapping[str, object] | None = None,
        proactive_inputs: Mapping[str, object] | None = None,
        config: RunnableConfig | None = None,
        context: object = None,
        interrupts: Literal["user"] | AskUser | Callable[[Any], object] | None = None,
        simulate_tools: Mapping[str, object] | None = None,
        max_steps: int = 50,
        timeout: float | None = 300.0,
        rewrites_history: bool = False,
        name: str | None = None,
    ) -> None:
        if not isinstance(app, Runnable):
            raise ConfigError(f"app must be a LangChain Runnable or a compiled graph, got {type(app).__name__}")
        if max_steps < 1:
            raise ConfigError(f"max_steps must be at least 1, got {max_steps}")
        if timeout is not None and timeout <= 0:
            raise ConfigError(f"timeout must be a positive number of seconds or None, got {timeout}")
        if input_as not in ("messages", "text"):
            raise ConfigError(f"input_as must be 'messages' or 'text', got {input_as!r}")
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
        # A key of the state, or None if the reply is found by a path or a function.
        self._output: str | None = None
        if isinstance(self.output_key, str) and (self.output_key in channels or "." not in self.output_key):
            self._output = self.output_key
        channel = channels.get(self._output) if self._output else None
        # A channel that keeps only its last value may hold the new messages without the history.
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
                raise ConfigError(f"simulate_tools: {self.name!r} is not a compiled graph; {WAY_OUT}")
            self._driver = LocalDriver(app, self.name, timeout=timeout, interruptible=self.interrupts is not None)

    async def respond(
        self,
        messages: Sequence[BaseMessage],
        memory: Memory,
        context: AssistantContext,
        *,
        inputs: Mapping[str, object] | None = None,
    ) -> tuple[list[BaseMessage], Memory]:
        """Simulate the app's reply.

        Args:
            messages: The conversation so far.
            memory: What this method returned last; {} before the first turn.
            context: The seed of this turn, and whether to be proactive.
            inputs: Additional state keys for this call only.

        Returns:
            The reply's messages, and the memory to pass to the next call.

        Raises:
            AppError: If the app fails or gives no reply; the error names the app and the node.
            ConfigError: If the memory was written by someone else and holds types the app's state does not declare.
        """
        self._check(memory)
        executable = context.executable and not isinstance(self.app, RemoteGraph)
        turn = AppTurn(Mode.pausing if executable else Mode.simulated, self.simulate_tools)
        with taking(turn), seeded(context.seed) as calls:
            given, new = self._given(messages, memory, context, inputs or {})
            result = await self._drive(memory.get("branch", {}), given, turn, calls)
        reply, after = self._finished(messages, context.seed, new, result, in_words=True)
        if turn.was_simulated and result.kept is not None:
            how = {"seed": context.seed, "proactive": context.proactive}
            after["unexecuted"] = {"branch": result.kept, "tools": turn.simulated_calls, **how}
        return reply, after

    def state_of(self, memory: Memory) -> dict[str, Any]:
        """Return the app's state after its last turn, for judges (`Conversation.state`).

        Messages are left out, and so are values that cannot be serialized, such as an open connection.
        """
        self._check(memory)
        return {key: unpack(text) for key, text in memory.get("state", {}).items()}

    async def fork(self, thread: RunnableConfig) -> tuple[list[BaseMessage], Memory]:
        """Start from a live thread of the app, without writing to it.

        Args:
            thread: The config of the app's thread, `{"configurable": {"thread_id": ...}}`, with a `checkpoint_id` to
                start from an earlier checkpoint than the last.

        Returns:
            The thread's messages, and the assistant's memory of it. A thread that does not exist yet has no messages.

        Raises:
            ConfigError: If the app has no checkpointer, the checkpoint does not exist, or the thread waits for an
                answer and `interrupts` is not "user".
        """
        if not (thread.get("configurable") or {}).get("thread_id"):
            raise ConfigError('thread must be a config {"configurable": {"thread_id": ...}}')
        values, interrupts, branch = await self._driver.fork(thread)
        if interrupts and not isinstance(self.interrupts, AskUser):
            asked = question_in(interrupts[0].value)[:200]
            raise ConfigError(f"app {self.name!r}: its thread waits for an answer to {asked!r}: set interrupts='user'")
        messages = self._history(values)
        return messages, self._memory(branch, interrupts, values, messages)

    async def commit(self, memory: Memory) -> Memory:
        """Append a fork's checkpoints to the live thread and apply its writes to the live store and caches.

        Args:
            memory: The memory of a branch that started with `fork`.

        Returns:
            The memory to continue with.

        Raises:
            RolloutError: If the live thread has changed since `fork`.
            ConfigError: If the branch did not start with `fork`, or its last turn was simulated and not executed.
        """
        self._check(memory)
        branch = memory.get("branch", {})
        if branch.get("was_simulated"):
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
        answers: Answers | None = None,
        in_words: bool = True,
    ) -> Executed:
        """Execute the tool calls that were simulated for a chosen reply, inside the app, each once.

        Execution resumes at the first simulated call or answered interrupt and uses real results. Nothing before that
        point is repeated. A reply in which nothing was simulated is returned unchanged.

        Interrupts are raised again. If `interrupts` is a function, it answers them. If it is "user" and `in_words` is
        true, the reply ends with the question as text, and the user's next message answers it. Otherwise the app
        waits: call `execute` again with the returned memory as `after`, and with `answers`.

        For a branch that did not start with `fork`, writes to the app's store and caches are applied. Inside another
        simulation, nothing is executed.

        Args:
            messages: As passed to `respond`.
            memory: As passed to `respond`.
            reply: As returned by `respond`.
            after: The memory that `respond` returned, or that an unfinished `execute` returned or raised.
            context: As passed to `respond`.
            answers: Values to resume with, by the interrupts' ids.
            in_words: Whether the reply may end with an interrupt's question as text.

        Returns:
            The executed reply, the memory to continue with, and the interrupts that the app waits for.

        Raises:
            AppError: If the app fails. Its `after` is the memory to continue with, so that nothing is done twice.
            RolloutError: Before anything is executed, if the live thread has changed since `fork`.
            ConfigError: If an earlier turn was simulated and not executed.
        """
        if is_simulating():
            return Executed(list(reply), after)
        self._check(memory)
        self._check(after)
        if memory.get("branch", {}).get("was_simulated"):
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

        def left(at: Kept) -> Memory:
            """Return the entries that a memory needs to continue the execution."""
            return {"unexecuted": {"branch": {**at, "calls": calls.dump()}, "tools": turn.allowed, **how}}

        try:
            with taking(turn), seeded(context.seed, calls):
                given, new = self._given(messages, memory, context)
                if branch:  # Otherwise the app has no thread, and is called again.
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
        """Delete the thread copies made on a deployment. For any other app this does nothing."""
        if isinstance(self._driver, RemoteDriver):
            await self._driver.delete_threads()

    def _check(self, memory: Memory) -> None:
        """Check that deserializing a memory that others may have written runs no foreign code."""
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
        inputs: Mapping[str, object] | None = None,
    ) -> tuple[object, list[BaseMessage]]:
        """Return the app's input, and the messages in it."""
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
        return given, [message.model_copy() for message in said]  # The app may change its input.

    def _finished(
        self,
        messages: Sequence[BaseMessage],
        seed: int,
        new: Sequence[BaseMessage],
        result: AppResult,
        *,
        in_words: bool,
    ) -> tuple[list[BaseMessage], Memory]:
        """Return a turn's reply, ending with the pending question as text, and the memory."""
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
        """Split the conversation into the part up to the message with the id `seen`, and the rest."""
        if seen is None:
            return [], messages
        for index in range(len(messages), 0, -1):
            if messages[index - 1].id == seen:
                return messages[:index], messages[index:]
        raise AppError(
            f"app {self.name!r}: the conversation has lost the message that the app saw last ({seen}): "
            "start without assistant_memory to give the app the whole conversation"
        )

    async def _drive(self, branch: Kept, given: object, turn: AppTurn, calls: Calls) -> AppResult:
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
                raise AppError(f"app {self.name!r} interrupts with {asked!r}: set `interrupts` to answer it")
            if not result.interrupts or not callable(self.interrupts):
                break
            turn.was_simulated = turn.mode is not Mode.executed
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

    async def _answer(self, policy: Callable[[Any], object], value: object) -> object:
        async def answer() -> object:
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

    def _own(self, name: str, value: T) -> T:
        """Copy a value for one branch. Parts that cannot be copied are shared by all branches, with one warning."""
        copied, shared = branch_copy(value, name)
        if new := [one for one in shared if one not in self._shared]:
            self._shared.update(new)
            warnings.warn(
                f"app {self.name!r}: {', '.join(new)} cannot be copied, so all candidates and futures share it "
                "and see each other's changes to it",
                stacklevel=2,
            )
        return copied

    def _input(
        self, messages: list[BaseMessage], new: list[BaseMessage], proactive: bool, more: Mapping[str, object]
    ) -> list[BaseMessage] | dict[str, object]:
        if isinstance(self.app, BaseChatModel):
            return new
        inputs = {**(self.proactive_inputs if proactive else self.inputs), **more}
        given = {key: value(messages) if callable(value) else own_copy(value) for key, value in inputs.items()}
        if self.input_key is None:
            return given
        words = next((text_of(message) for message in reversed(new) if is_users(message)), "")
        return {self.input_key: words if self.input_as == "text" else [as_given(one) for one in new], **given}

    def _part(self, values: object) -> object:
        """Return the part of the app's output that contains the reply."""
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

    def _history(self, values: object) -> list[BaseMessage]:
        """Return the messages in the values of the app's thread."""
        key = self._output or self.input_key
        return self._messages(values.get(key)) if isinstance(values, Mapping) and key else []

    def _reply(self, history: list[BaseMessage], values: object) -> list[BaseMessage]:
        if isinstance(values, Mapping) and self._output is not None and self._output not in values:
            keys = ", ".join(map(str, values)) or "none"
            raise AppError(f"app {self.name!r}: its output has no key {self._output!r}; its keys are {keys}")
        part = self._part(values)
        reply: list[BaseMessage] | None = self._messages(part)
        # A string is the reply as a whole, even if it equals the last reply.
        if reply and not isinstance(part, str) and (self._output is not None or not isinstance(values, Mapping)):
            reply = reply_in(reply, history, accumulates=self._accumulates, rewrites=self.rewrites_history)
        if reply is None:
            raise AppError(
                f"app {self.name!r}: it changed or removed earlier messages; rewrites_history=True allows it"
            )
        return [as_internal(message) for message in reply if not isinstance(message, SystemMessage)]

    def _messages(self, value: object) -> list[BaseMessage]:
        try:
            return as_messages(value)
        except Exception as error:
            what = f"{self.output_name} is {str(value)[:80]!r}"
            raise AppError(f"app {self.name!r}: {what}: expected messages, a message or a string") from error

    def _memory(
        self,
        branch: Kept,
        interrupts: Sequence[Interrupt],
        values: object,
        said: Sequence[BaseMessage],
    ) -> Memory:
        memory: Memory = {"branch": dict(branch)}
        if self.rewrites_history and self._accumulates and not ("thread" in branch or "remote" in branch):
            # A plain caller of the app would pass back the messages it returned.
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
"""The key in a message's `additional_kwargs` that marks it as an interrupt's question in words."""


def _asked(memory: Memory) -> list[Interrupt]:
    return [Interrupt(value=unpack(value), id=key) for key, value in memory["asked"].items()]


def _at_path(values: object, path: str) -> object:
    """Return the value at a dotted path of keys, attributes and list indices."""
    for part in path.split("."):
        if isinstance(values, Mapping):
            values = values[part]
        elif isinstance(values, list | tuple):
            values = values[int(part)]
        else:
            values = getattr(values, part)
    return values


def _packed(value: object) -> str | None:
    """Pack a value, or return None if it cannot be serialized, such as an open connection."""
    try:
        return pack(value)
    except (TypeError, ValueError):
        return None
