"""Lookahead while serving: an agent that answers with the candidate of the highest multiturn-aware reward."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, messages_from_dict, messages_to_dict
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import MessagesState

from collab_agents.assistants import Assistant
from collab_agents.config import Budget, check_lookahead
from collab_agents.errors import ConfigError
from collab_agents.graphs.conversation import Graph
from collab_agents.graphs.deliberation import Deliberation, alike, unheard
from collab_agents.graphs.lookahead import create_lookahead_graph
from collab_agents.graphs.nodes import assistant_node, ends_with_user, named
from collab_agents.graphs.states import ConversationState
from collab_agents.messages import text_of, transcript, with_ids
from collab_agents.personas import Persona
from collab_agents.prompts import render
from collab_agents.rewards import MultiturnReward
from collab_agents.seeds import branch_seed, derive_seed
from collab_agents.tasks import Task
from collab_agents.usage import SAID_AGAIN
from collab_agents.users import AnyUser, Memory, as_user


class AgentInput(MessagesState, total=False):
    """messages: a conversation that ends with the user's message. assistant_memory: as the agent last returned it, or

    as `GraphAssistant.fork` gave it; not needed where a checkpointer keeps it.
    """

    assistant_memory: Memory


class AgentOutput(AgentInput, total=False):
    """lookahead: how the last reply was chosen: `candidates` (as in `trajectories.Candidate`), which one is `chosen`

    and `why`, the `usage` (calls and tokens) and the `seconds` that it took.
    """

    lookahead: dict[str, Any]


class AgentState(AgentOutput, total=False):
    """reply, after: the chosen candidate's messages and memory, until they are given; the messages as dicts, which

    LangGraph does not take for messages to stream.
    """

    reply: list[dict[str, Any]] | None
    after: Memory | None


def create_lookahead_agent(
    assistant: Assistant,
    user: AnyUser,
    reward: MultiturnReward,
    *,
    candidates: int = 3,
    futures: int = 2,
    window: int = 1,
    proactive_ratio: float = 0.0,
    budget: Budget | None = None,
    goal: Callable[[Sequence[BaseMessage]], Task | Awaitable[Task]] | None = None,
    persona: Persona | None = None,
    agree: float | Callable[[Sequence[str]], bool] = 0.95,
    seed: int = 0,
    checkpointer: "BaseCheckpointSaver[Any] | None" = None,
) -> Graph:
    """A compiled graph, with `messages` in and out, that answers with the candidate of the highest reward.

    It can be used as it is or as a node of a parent graph; it streams the tokens of the chosen reply and of no other,
    once it is chosen, and tells under `lookahead` how it was chosen (see `AgentOutput`).
    candidates, futures, window, proactive_ratio: as for `create_rollout_graph`; the last candidates are the proactive
        ones.
    user, persona: who plays the futures.
    budget: of one reply. When the time or the calls run out, all that is under way is cancelled and the first
        candidate that is there is the reply; if there is none yet, the first to come, for which, when the time is
        up, one more call is made. The first candidate's own calls are made in any case.
    goal: the task that the simulated user pursues, of the conversation so far (async or not); by default, what the
        user has said in it (`goal_so_far`).
    agree: no lookahead is made if all candidates agree: if they have at least this share of their words in common, or
        if a function of their texts (tool calls included) says so.
    seed: of the run; a conversation's own seed is derived from it and from what was said.
    An app with `simulate_tools` (`GraphAssistant`) runs them for the chosen reply alone, and beyond the budget.
    Raises RolloutError if the conversation does not end with the user's message, or there is no candidate (in time).
    """
    shape = check_lookahead(candidates=candidates, futures=futures, window=window, proactive_ratio=proactive_ratio)
    if not callable(agree) and not 0 <= agree <= 1:
        raise ConfigError(f"agree is {agree}: a share in [0, 1] or a function is needed")
    find_goal = goal or goal_so_far
    plan = Deliberation(
        _create_reply_graph(assistant),
        create_lookahead_graph(as_user(user), assistant, reward, futures=futures, window=window, checkpointer=False),
        candidates=candidates,
        proactive=shape.proactive_candidates,
        budget=budget or Budget(),
        agree=agree if callable(agree) else alike(agree),
    )
    perform = getattr(assistant, "perform", None)

    @named("deliberate")
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
        return {"reply": messages_to_dict(choice.reply), "after": choice.memory, "lookahead": choice.record}

    @named("answer")
    async def answer(state: Any) -> dict[str, Any]:
        messages, reply, memory = state["messages"], messages_from_dict(state["reply"]), state["after"]
        if perform:
            before = (state.get("assistant_memory") or {}) | {"seed": _seed(seed, messages)}
            with unheard():  # What is said meanwhile is said below.
                reply, memory = await perform(messages, before, reply, memory)
        reply = with_ids(reply, messages, _seed(seed, messages))
        await _stream(reply)
        return {"messages": reply, "assistant_memory": memory, "reply": None, "after": None}

    graph = StateGraph(AgentState, input_schema=AgentInput, output_schema=AgentOutput)
    graph.add_node("deliberate", deliberate)
    graph.add_node("answer", answer)
    graph.add_edge(START, "deliberate")
    graph.add_edge("deliberate", "answer")
    graph.add_edge("answer", END)
    return graph.compile(name="lookahead_agent", checkpointer=checkpointer)


def goal_so_far(messages: Sequence[BaseMessage]) -> Task:
    """The goal of a user of whom nothing is known but the conversation: what they have said in it."""
    said = "\n".join(f"- {text_of(message)}" for message in messages if message.type == "human")
    return Task(id="live", kind="live", prompt=render("goal_so_far", said=said))


def _create_reply_graph(assistant: Assistant) -> Graph:
    graph = StateGraph(ConversationState)
    graph.add_node("assistant", assistant_node(assistant))
    graph.add_edge(START, "assistant")
    graph.add_edge("assistant", END)
    return graph.compile(name="candidate", checkpointer=False)


def _seed(seed: int, messages: Sequence[BaseMessage]) -> int:
    return derive_seed(seed, "agent", branch_seed() or 0, transcript(messages))


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
