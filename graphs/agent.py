"""Lookahead while serving: an agent that answers with the candidate that has the highest multiturn-aware reward."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Annotated, Any
from uuid import uuid4

from langchain_core.caches import BaseCache
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    RemoveMessage,
    messages_from_dict,
    messages_to_dict,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import MessagesState
from langgraph.types import Send, interrupt

from collab_agents._internal.langgraph_private import can_be_resumed
from collab_agents._internal.seeds import branch_seed, derive_seed
from collab_agents._internal.sync import run_sync
from collab_agents.assistants import Assistant
from collab_agents.assistants.apps.driver import AppError
from collab_agents.assistants.apps.interrupts import question_in
from collab_agents.assistants.apps.threads import Saver
from collab_agents.errors import ConfigError, RolloutError
from collab_agents.graphs.conversation import Graph
from collab_agents.graphs.deliberation import Deliberation, alike, unheard
from collab_agents.graphs.lookahead import create_lookahead_graph
from collab_agents.graphs.nodes import assistant_node, ends_with_user, named, running
from collab_agents.graphs.picture import compiled
from collab_agents.graphs.states import ConversationState, State, Update
from collab_agents.lookahead import SERVING, Budget, Lookahead
from collab_agents.messages import as_text, is_users, text_of, with_ids
from collab_agents.participants import Answers, AssistantContext, Executing
from collab_agents.personas import Persona
from collab_agents.prompts import render
from collab_agents.rewards import MultiturnReward
from collab_agents.tasks import Task
from collab_agents.usage import SAID_AGAIN
from collab_agents.users import AnyUser, Memory, as_user
from collab_agents.value import ValueModel, value_of


class AgentInput(MessagesState, total=False):
    """The agent's input: `messages`, a conversation that ends with the user's message, and the assistant's memory."""

    assistant_memory: Memory
    """The memory that the agent last returned, or that `GraphAssistant.fork` gave. A checkpointer keeps it for you."""


class AgentOutput(AgentInput, total=False):
    """The agent's output."""

    lookahead: dict[str, Any]
    """How the last reply was chosen.

    `candidates` (as in `trajectories.Candidate`), the index that was `chosen` and `why`, the `usage` (calls and
    tokens) and the `seconds` it took.
    """


def _gathered(answers: Answers | None, more: Answers | None) -> Answers | None:
    return None if more is None else {**(answers or {}), **more}


class AgentState(AgentOutput, total=False):
    """What the agent keeps while it works on a reply."""

    asked: int | None
    """How many messages the reply answers."""
    reply: list[dict[str, Any]] | None
    """The chosen candidate's messages, until they are given; as dicts, so that LangGraph does not stream them."""
    after: Memory | None
    """The assistant's memory after the chosen candidate."""
    waits: list[dict[str, Any]] | None
    """The app's interrupts that wait for an answer."""
    answers: Annotated[dict[str, Any] | None, _gathered]
    """The answers to interrupts, by interrupt id."""
    failure: dict[str, str] | None
    """Why executing the reply stopped."""


def create_lookahead_agent(
    assistant: Assistant,
    user: AnyUser,
    reward: MultiturnReward,
    lookahead: Lookahead = SERVING,
    *,
    budget: Budget | None = None,
    goal: Callable[[Sequence[BaseMessage]], Task | Awaitable[Task]] | None = None,
    persona: Persona | None = None,
    agree: float | Callable[[Sequence[str]], bool] = 0.95,
    value: ValueModel | None = None,
    seed: int = 0,
    takes_memory: bool = True,
    checkpointer: Saver | None = None,
) -> Graph:
    """Create an agent that looks ahead before it answers and gives the candidate with the highest reward.

    The compiled graph takes and returns `messages`, so it runs alone or as a node of a parent graph. It streams the
    tokens of the chosen reply only, once it is chosen, and reports under `lookahead` how the reply was chosen (see
    `AgentOutput`).

    The chosen reply of an app (`GraphAssistant`) is executed: the tool calls that were simulated for it are made for
    real, once, outside the budget. An interrupt of the app that no function answers becomes an interrupt of this
    graph, which `Command(resume=...)` answers. Without a checkpointer, and with interrupts="user", the reply ends with
    the question in words instead. With a checkpointer, call the graph with None to continue an execution that failed.

    Args:
        assistant: Gives the candidate replies, and plays the assistant in their futures.
        user: Plays the user in the futures.
        reward: Scores each future.
        lookahead: As for `create_rollout_graph`; `max_exchanges` has no effect here.
        budget: The limits of one reply. When its time or calls run out, everything under way is cancelled and the
            first finished candidate is the reply. If none is finished yet, the next one to finish is the reply; if the
            time ran out, one more call is made for it. The first candidate's own calls are always made.
        goal: Returns the task that the simulated user pursues, given the conversation so far; sync or async. By
            default, the task is what the user has said so far (`goal_so_far`).
        persona: The simulated user's persona.
        agree: Skips the lookahead if all candidates agree: if they share at least this fraction of their words
            (in [0, 1]), or if this function of their texts (tool calls included) returns True.
        value: Expects rewards of the candidates, by default `lookahead.value` if that is given. If it is sure which is
            a good choice (`lookahead.confidence`, `lookahead.indifference`), no future is played. Otherwise the choice
            takes both into account.
        seed: The run's seed. Each conversation's seed is derived from it and from the messages.
        takes_memory: Whether the input may set `assistant_memory`. Turn it off where clients of a server must not
            choose it.
        checkpointer: Keeps the agent's state between calls.

    Returns:
        The compiled graph. Calling it raises RolloutError if the conversation does not end with the user's message or
        if there is no candidate in time.

    Raises:
        ConfigError: If `agree` is a number outside [0, 1], or the allocation is adaptive.

    Example:
        agent = create_lookahead_agent(assistant, LLMUser(model), reward, budget=Budget(seconds=20))
        state = await agent.ainvoke({"messages": [("user", "Write me a packing list.")]})
        state["messages"][-1].content
    """
    if lookahead.allocation == "adaptive":
        raise ConfigError("an agent weighs each candidate as it comes: its lookahead needs allocation: uniform")
    if not callable(agree) and not 0 <= agree <= 1:
        raise ConfigError(f"agree must be a share in [0, 1] or a function, got {agree}")
    find_goal = goal or goal_so_far
    plan = Deliberation(
        _create_reply_graph(assistant),
        create_lookahead_graph(as_user(user), assistant, reward, lookahead, checkpointer=False),
        lookahead=lookahead,
        budget=budget or Budget(),
        agree=agree if callable(agree) else alike(agree),
        value=value or value_of(lookahead),
    )
    fresh_failures: set[str] = set()

    @named("deliberate")
    @running(plan.lookahead_graph)
    async def deliberate(state: State) -> Update:
        messages = state["messages"]
        if not ends_with_user(state):
            raise ConfigError("messages: the last one must be the user's")
        choice = await plan.choose(
            {
                "messages": messages,
                "persona": persona,
                "seed": _seed(seed, messages),
                "memory": {},
                "assistant_memory": state.get("assistant_memory") or {},
            },
            lambda: find_goal(messages),
        )
        return {
            "asked": len(messages),
            "reply": messages_to_dict(choice.reply),
            "after": choice.memory,
            "lookahead": choice.record,
            "waits": [],
            "answers": None,
            "failure": None,
        }

    @named("hold")
    async def hold(state: State) -> Update:
        """Drop messages that came before the last reply was fully executed; the agent still waits."""
        failure = state.get("failure")
        if failure:
            reason = f"the last reply is not fully executed yet, call the agent with None first: {failure['reason']}"
            fresh_failures.add(failure["token"])
            failure = {**failure, "reason": reason}
        came = state["messages"][state["asked"] :]
        return {"messages": [RemoveMessage(id=message.id) for message in came], "failure": failure}

    @named("execute")
    async def execute(state: State) -> Update:
        messages = state["messages"][: state["asked"]]
        reply, after = messages_from_dict(state["reply"]), state["after"]
        if not isinstance(assistant, Executing):
            return {"waits": [], "failure": None}
        before, context = state.get("assistant_memory") or {}, AssistantContext(seed=_seed(seed, messages))
        can_wait = can_be_resumed()
        try:
            with unheard():  # The reply is streamed below.
                done = await assistant.execute(
                    messages,
                    before,
                    reply,
                    after,
                    context=context,
                    answers=state.get("answers"),
                    in_words=not can_wait,
                )
        except AppError as error:
            if error.after is None or not can_wait:
                raise
            # Keep what was done, so that calling the agent with None continues from there.
            token = uuid4().hex
            fresh_failures.add(token)
            return {"after": error.after, "answers": None, "failure": {"reason": str(error), "token": token}}
        if done.interrupts and not can_wait:
            asked = question_in(done.interrupts[0].value)[:200]
            raise RolloutError(
                f"the app asks {asked!r}, and nothing can answer: give the agent a checkpointer, so that it can wait, "
                "or GraphAssistant a function as interrupts"
            )
        return {
            "reply": messages_to_dict(done.reply),
            "after": done.memory,
            "waits": [{"id": one.id, "value": one.value} for one in done.interrupts],
            "answers": None,
            "failure": None,
        }

    @named("ask")
    async def ask(state: State) -> Update:
        return {"answers": {state["id"]: interrupt(state["value"])}}

    @named("execute")
    async def fail(state: State) -> Update:
        failure = state["failure"]
        if failure["token"] in fresh_failures:
            fresh_failures.discard(failure["token"])
            raise RolloutError(failure["reason"])
        return {"failure": None}

    @named("answer")
    async def answer(state: State) -> Update:
        messages, reply = state["messages"], messages_from_dict(state["reply"])
        reply = with_ids(reply, messages, _seed(seed, messages))
        await _stream(reply)
        nothing = dict.fromkeys(("asked", "reply", "after", "waits", "answers", "failure"))
        return {"messages": reply, "assistant_memory": state["after"], **nothing}

    async def begin(state: State) -> str:
        return "hold" if state.get("waits") or state.get("failure") else "deliberate"

    async def after_execution(state: State) -> str | list[Send]:
        if state.get("failure"):
            return "fail"
        return [Send("ask", wait) for wait in state.get("waits") or ()] or "answer"

    graph = StateGraph(
        AgentState, input_schema=AgentInput if takes_memory else MessagesState, output_schema=AgentOutput
    )
    nodes = {
        "hold": hold,
        "deliberate": deliberate,
        "execute": execute,
        "ask": ask,
        "fail": fail,
        "answer": answer,
    }
    for name, node in nodes.items():
        graph.add_node(name, _both_ways(node, name))
    graph.add_conditional_edges(START, _both_ways(begin, "begin"), ["deliberate", "hold"])
    graph.add_conditional_edges("hold", _both_ways(after_execution, "after_execution"), ["ask", "fail"])
    graph.add_edge("deliberate", "execute")
    graph.add_conditional_edges("execute", _both_ways(after_execution, "after_execution"), ["answer", "ask", "fail"])
    graph.add_edge("ask", "execute")
    graph.add_edge("fail", "execute")
    graph.add_edge("answer", END)
    return compiled(graph, "lookahead_agent", checkpointer)


def _both_ways(function: Callable[[State], Coroutine[Any, Any, object]], name: str) -> RunnableLambda[Any, Any]:
    """Make an async function work in sync calls of the graph too."""
    return RunnableLambda(lambda state: run_sync(function(state)), afunc=function, name=name)


def goal_so_far(messages: Sequence[BaseMessage]) -> Task:
    """Return a task whose goal is everything the user has said, for when only the conversation is known."""
    said = "\n".join(f"- {text_of(message)}" for message in messages if is_users(message))
    return Task(id="live", kind="live", goal=render("goal_so_far", said=said))


def _create_reply_graph(assistant: Assistant) -> Graph:
    graph = StateGraph(ConversationState)
    graph.add_node("assistant", assistant_node(assistant, executable=True))
    graph.add_edge(START, "assistant")
    graph.add_edge("assistant", END)
    return graph.compile(name="candidate", checkpointer=False)


def _seed(seed: int, messages: Sequence[BaseMessage]) -> int:
    return derive_seed(seed, "agent", branch_seed() or 0, as_text(messages))


class _ChosenReply(BaseChatModel):
    """Streams a finished reply word by word, as a model would, to the callbacks that stream model output."""

    reply: AIMessage
    cache: BaseCache | bool | None = False

    @property
    def _llm_type(self) -> str:
        return "chosen-reply"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.reply)])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for word in re.findall(r"\s*\S+\s*$|\s*\S+", text_of(self.reply)):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word, id=self.reply.id))


async def _stream(reply: Sequence[BaseMessage]) -> None:
    callbacks = (var_child_runnable_config.get() or {}).get("callbacks")
    if any(isinstance(one, _StreamingCallbackHandler) for one in getattr(callbacks, "handlers", ())):
        for message in reply:
            if isinstance(message, AIMessage) and text_of(message).strip():
                await _ChosenReply(reply=message, tags=[SAID_AGAIN]).ainvoke([])
