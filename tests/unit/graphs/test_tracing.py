"""What a tracer (LangSmith, OpenTelemetry: anything on LangChain's callbacks) sees of a run."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage

from benchmarks.process import Server
from collab_agents import (
    ChatAssistant,
    LLMUser,
    Lookahead,
    MultiturnReward,
    ScriptedUser,
    create_conversation_graph,
    create_lookahead_agent,
    create_lookahead_graph,
    create_rollout_graph,
    load_chat_model,
)
from collab_agents.judges import interactivity, token_cost
from tests.support.tasks import party


class Tree(AsyncCallbackHandler):
    """Every run by its parent, and the metadata of the calls of models."""

    def __init__(self) -> None:
        self.names: dict[UUID, tuple[str, UUID | None]] = {}
        self.calls: list[dict[str, Any]] = []

    async def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self.names[run_id] = (kwargs.get("name") or "", parent_run_id)

    async def on_chat_model_start(
        self, serialized: Any, messages: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        path = []
        while parent_run_id is not None:
            name, parent_run_id = self.names[parent_run_id]
            path.append(name)
        self.calls.append(
            {**kwargs["metadata"], "tags": kwargs["tags"], "name": kwargs.get("name"), "path": "/".join(reversed(path))}
        )


async def test_a_trace_reads_as_the_tree_of_turns_candidates_and_futures(serve: Callable[..., Server]) -> None:
    model = load_chat_model("openai:any", base_url=serve().url)
    reward = MultiturnReward({"interactivity": interactivity(model), "cost": token_cost()})
    graph = create_rollout_graph(
        LLMUser(model), ChatAssistant(model), reward, Lookahead(candidates=2, futures=2, window=1, max_exchanges=2)
    )
    tree = Tree()
    config: Any = {"callbacks": [tree], "run_name": "task party", "metadata": {"mine": 1}}
    await graph.ainvoke({"messages": [HumanMessage("Hello")], "task": party(), "seed": 3}, config)

    by_role: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for call in tree.calls:
        by_role[call["role"]].append(call)
        assert call["task"] == "party"
        assert call["mine"] == 1
        assert call["role"] in call["tags"]
        assert isinstance(call["seed"], int)
    assert set(by_role) == {"assistant", "user", "judge"}
    assert (
        {call["judge"] for call in by_role["judge"]} == {call["name"] for call in by_role["judge"]} == {"interactivity"}
    )

    inside = [call for call in tree.calls if "future" in call]
    assert {(call["candidate"], call["future"]) for call in inside} == {(i, j) for i in range(2) for j in range(2)}
    for call in inside:
        candidate, future = f"candidate {call['candidate']}", f"future {call['future']}"
        assert call["path"].startswith(f"task party/candidate/{candidate}/future/{future}/")
    replies = [call for call in by_role["assistant"] if "future" not in call]
    assert sorted((call["turn"], call["candidate"]) for call in replies) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert {call["turn"] for call in by_role["assistant"] if "future" in call} == {2, 3}
    assert len({call["seed"] for call in tree.calls if call["role"] == "assistant"}) == len(by_role["assistant"])


@pytest.mark.parametrize("name", ["conversation", "lookahead", "rollout", "agent"])
async def test_events_and_tokens_stream_through_every_graph(name: str, serve: Callable[..., Server]) -> None:
    model = load_chat_model("openai:any", base_url=serve().url)
    user, assistant = ScriptedUser(["one", "two"]), ChatAssistant(model)
    reward = MultiturnReward({"cost": token_cost()})
    graphs: dict[str, Any] = {
        "conversation": lambda: create_conversation_graph(user, assistant, reward=reward, max_exchanges=1),
        "lookahead": lambda: create_lookahead_graph(user, assistant, reward, Lookahead(futures=2, window=1)),
        "rollout": lambda: create_rollout_graph(
            user, assistant, reward, Lookahead(candidates=2, futures=2, max_exchanges=1)
        ),
        "agent": lambda: create_lookahead_agent(assistant, user, reward, Lookahead(candidates=2, futures=2, window=1)),
    }
    messages = [HumanMessage("Hello"), *([AIMessage("Hi")] if name == "lookahead" else [])]
    names, tokens = set(), 0
    async for event in graphs[name]().astream_events({"messages": messages, "task": party()}):
        names.add(event["name"])
        tokens += event["event"] == "on_chat_model_stream"
    assert tokens > 10
    assert {"conversation": {"assistant", "judge"}}.get(name, {"future 0", "future 1", "judge"}) <= names
