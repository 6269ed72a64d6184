"""Lookahead while serving: an agent that answers with the candidate of the highest multiturn-aware reward."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Annotated, Any
from uuid import uuid4

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
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import MessagesState
from langgraph.types import Send, interrupt

from collab_agents._internal.langgraph_private import can_be_resumed
from collab_agents._internal.seeds import branch_seed, derive_seed
from collab_agents._internal.sync import run_sync
from collab_agents.assistants import Assistant
from collab_agents.assistants.apps.driver import AppError
from collab_agents.assistants.apps.interrupts import question_in
from collab_agents.errors import ConfigError, RolloutError
from collab_agents.graphs.conversation import Graph
from collab_agents.graphs.deliberation import Deliberation, alike, unheard
from collab_agents.graphs.lookahead import create_lookahead_graph
from collab_agents.graphs.nodes import assistant_node, ends_with_user, named, running
from collab_agents.graphs.states import ConversationState
from collab_agents.lookahead import SERVING, Budget, Lookahead
from collab_agents.messages import as_text, is_users, text_of, with_ids
from collab_agents.participants import AssistantContext, Executing
from collab_agents.personas import Persona
from collab_agents.prompts import render
from collab_agents.rewards import MultiturnReward
from collab_agents.tasks import Task
from collab_agents.usage import SAID_AGAIN
from collab_agents.users import AnyUser, Memory, as_user


class AgentInput(MessagesState, total=False):
    """What the agent takes.

    messages: a conversation that ends with the user's message. assistant_memory: as the agent last returned it, or as
    `GraphAssistant.fork` gave it; not needed where a checkpointer keeps it.
    """

    assistant_memory: Memory


class AgentOutput(AgentInput, total=False):
    """What the agent gives.

    lookahead: how the last reply was chosen: `candidates` (as in `trajectories.Candidate`), which one is `chosen` and
    `why`, the `usage` (calls and tokens) and the `seconds` that it took.
    """

    lookahead: dict[str, Any]


def _gathered(answers: dict[str, Any] | None, more: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if more is None else {**(answers or {}), **more}


class AgentState(AgentOutput, total=False):
    """What it keeps while it works.

    asked: how many messages the reply answers. reply, after: the chosen candidate's messages and memory, until they are
    given; the messages as dicts, which LangGraph does not take for messages to stream. waits: the app's interrupts that
    are to be answered. answers: what they were answered, by their ids. failure: why executing the reply stopped.
    """

    asked: int | None
    reply: list[dict[str, Any]] | None
    after: Memory | None
    waits: list[dict[str, Any]] | None
    answers: Annotated[dict[str, Any] | None, _gathered]
    failure: dict[str, str] | None


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
    seed: int = 0,
    takes_memory: bool = True,
    checkpointer: "BaseCheckpointSaver[Any] | None" = None,
) -> Graph:
    """A compiled graph, with `messages` in and out, that answers with the candidate of the highest reward.

    It can be used as it is or as a node of a parent graph; it streams the tokens of the chosen reply and of no other,
    once it is chosen, and tells under `lookahead` how it was chosen (see `AgentOutput`).
    lookahead: as for `create_rollout_graph`; `max_exchanges` has no say here.
    user, persona: who plays the futures.
    budget: of one reply. When the time or the calls run out, all that is under way is cancelled and the first
        candidate that is there is the reply; if there is none yet, the first to come, for which, when the time is
        up, one more call is made. The first candidate's own calls are made in any case.
    goal: the task that the simulated user pursues, of the conversation so far (async or not); by default, what the
        user has said in it (`goal_so_far`).
    agree: no lookahead is made if all candidates agree: if they have at least this share of their words in common, or
        if a function of their texts (tool calls included) says so.
    seed: of the run; a conversation's own seed is derived from it and from what was said.
    takes_memory: whether `assistant_memory` is taken from the input, which clients of a server must not choose.
    The chosen reply of an app (`GraphAssistant`) is executed: its simulated tools are called for real, once, beyond
    the budget. An interrupt of the app that no function answers is an interrupt of this graph, to be answered by
    `Command(resume=...)`; without a checkpointer, and with interrupts="user", the reply ends with the question in
    words instead. With a checkpointer, an execution that failed goes on from there when the graph is called with None.
    Raises RolloutError if the conversation does not end with the user's message, or there is no candidate (in time).
    """
    if not callable(agree) and not 0 <= agree <= 1:
        raise ConfigError(f"agree is {agree}: a share in [0, 1] or a function is needed")
    find_goal = goal or goal_so_far
    plan = Deliberation(
        _create_reply_graph(assistant),
        create_lookahead_graph(as_user(user), assistant, reward, lookahead, checkpointer=False),
        lookahead=lookahead,
        budget=budget or Budget(),
        agree=agree if callable(agree) else alike(agree),
    )
    fresh_failures: set[str] = set()

    @named("deliberate")
    @running(plan.lookahead_graph)
    async def deliberate(state: Any) -> dict[str, Any]:
        messages = state["messages"]
        if not ends_with_user(state):
            raise ConfigError("messages: the last one has to be the user's")
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
    async def hold(state: Any) -> dict[str, Any]:
        """A message has come while the last reply is executed: it is not taken, and the agent still waits."""
        failure = state.get("failure")
        if failure:
            reason = (
                f"the last reply is not executed to its end yet, call the agent with None first: {failure['reason']}"
            )
            fresh_failures.add(failure["token"])
            failure = {**failure, "reason": reason}
        came = state["messages"][state["asked"] :]
        return {"messages": [RemoveMessage(id=message.id) for message in came], "failure": failure}

    @named("execute")
    async def execute(state: Any) -> dict[str, Any]:
        messages = state["messages"][: state["asked"]]
        reply, after = messages_from_dict(state["reply"]), state["after"]
        if not isinstance(assistant, Executing):
            return {"waits": [], "failure": None}
        before, context = state.get("assistant_memory") or {}, AssistantContext(seed=_seed(seed, messages))
        can_wait = can_be_resumed()
        try:
            with unheard():  # What is said meanwhile is said below.
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
            # What was done is kept, so that the agent, called again with None, goes on from there.
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
    async def ask(state: Any) -> dict[str, Any]:
        return {"answers": {state["id"]: interrupt(state["value"])}}

    @named("execute")
    async def fail(state: Any) -> dict[str, Any]:
        failure = state["failure"]
        if failure["token"] in fresh_failures:
            fresh_failures.discard(failure["token"])
            raise RolloutError(failure["reason"])
        return {"failure": None}

    @named("answer")
    async def answer(state: Any) -> dict[str, Any]:
        messages, reply = state["messages"], messages_from_dict(state["reply"])
        reply = with_ids(reply, messages, _seed(seed, messages))
        await _stream(reply)
        nothing = dict.fromkeys(("asked", "reply", "after", "waits", "answers", "failure"))
        return {"messages": reply, "assistant_memory": state["after"], **nothing}

    async def begin(state: Any) -> str:
        return "hold" if state.get("waits") or state.get("failure") else "deliberate"

    async def after_execution(state: Any) -> str | list[Send]:
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
    return graph.compile(name="lookahead_agent", checkpointer=checkpointer)


def _both_ways(function: Callable[[Any], Coroutine[Any, Any, Any]], name: str) -> RunnableLambda[Any, Any]:
    """For sync calls of the graph too."""
    return RunnableLambda(lambda state: run_sync(function(state)), afunc=function, name=name)


def goal_so_far(messages: Sequence[BaseMessage]) -> Task:
    """The goal of a user of whom nothing is known but the conversation: what they have said in it."""
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
    """Says a reply that is there already, word by word, to whoever listens to models as they speak."""

    reply: AIMessage
    cache: Any = False

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
