"""The same turns of an app, by plain runs of it and by a lookahead agent, for tests to compare."""

import re
from collections.abc import Callable
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.types import Command

from collab_agents import (
    GraphAssistant,
    Lookahead,
    MultiturnReward,
    ScriptedUser,
    create_lookahead_agent,
    is_simulating,
)
from collab_agents.judges import token_cost
from tests.support.app_shapes import World

LIVE: Any = {"configurable": {"thread_id": "customer 42"}}
COST = MultiturnReward({"cost": token_cost()})


def plainly(messages: list[BaseMessage]) -> list[Any]:
    """Messages without what is drawn or tells the time."""
    return [
        (
            one.type,
            undrawn(one.content),
            undrawn(getattr(one, "tool_calls", None)),
            getattr(one, "artifact", None),
            getattr(one, "status", None),
            one.additional_kwargs,
            one.name,
        )
        for one in messages
    ]


def undrawn(content: Any) -> str:
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\dT[\d:.+]+", "...", str(content))


def values(state: dict[str, Any]) -> dict[str, Any]:
    return {key: plainly(one) if key == "messages" else one for key, one in state.items() if key != "__interrupt__"}


def stored(world: World) -> Any:
    if world.store is None:
        return None
    found = world.store.search((), limit=1000)
    return sorted((item.namespace, str(item.value)) for item in found)


async def run_plainly(world: World, words: list[str], answer: Callable[[Any], Any] = lambda value: "yes") -> Any:
    """Turns of the app itself, its interrupts answered."""
    out: Any = {"messages": []}
    for said in words:
        asked = [HumanMessage(said)] if world.saver else [*out["messages"], HumanMessage(said)]
        out = await world.app.ainvoke({"messages": asked}, LIVE)
        while out.get("__interrupt__"):
            answers = {one.id: answer(one.value) for one in out["__interrupt__"]}
            out = await world.app.ainvoke(Command(resume=answers), LIVE)
    return out


async def run_ahead(world: World, words: list[str], tools: dict[str, Any], **options: Any) -> Any:
    """The same turns by a lookahead agent. In the simulation the policy answers otherwise than for real."""
    assistant = GraphAssistant(
        world.app,
        simulate_tools=tools,
        **{"interrupts": lambda value: "would" if is_simulating() else "yes", "rewrites_history": True} | options,
    )
    agent = create_lookahead_agent(
        assistant,
        ScriptedUser(["and then?"] * 9),
        COST,
        Lookahead(candidates=2, futures=1, window=1),
        agree=lambda texts: False,
    )
    memory: Any = {}
    messages: list[BaseMessage] = []
    for said in words:
        if world.saver:
            messages, memory = await assistant.fork(LIVE)
        end = await agent.ainvoke({"messages": [*messages, HumanMessage(said)], "assistant_memory": memory})
        assert end["lookahead"]["why"] == "the highest reward", end["lookahead"]
        messages, memory = end["messages"], end["assistant_memory"]
        if world.saver:
            memory = await assistant.commit(memory)
    return {**assistant.state_of(memory), "messages": messages}
