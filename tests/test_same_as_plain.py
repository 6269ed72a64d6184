"""An app that is looked ahead with and executed ends as a plain run of it does: the same real calls, in the same order,

and the same messages, state, thread, store and cache.
"""

from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.types import Command

from collab_agents import GraphAssistant, MultiturnReward, ScriptedUser, create_lookahead_agent
from collab_agents.judges import token_cost
from tests.app_shapes import Description, Shape, World, make, simulated_by

LIVE: Any = {"configurable": {"thread_id": "customer 42"}}
COST = MultiturnReward({"cost": token_cost()})


@st.composite
def descriptions(draw: Any, shape: Shape) -> Description:
    agent = shape.startswith("create_agent")
    asks = draw(st.sampled_from(["nobody", "nobody", "tool", *([] if agent or shape == "one node" else ["node"])]))
    # A node that calls tools in its own code gives them no state or store; a tool of an agent that is called in a node
    # returns no command to a state that is not there.
    gives = draw(st.sampled_from(["text"] if shape == "one node" else ["text", "artifact", "store", "command"]))
    if gives == "command" and agent:
        gives = "artifact"
    return Description(
        shape=shape,
        rounds=tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))),
        reads=draw(st.booleans()),
        answers=draw(st.sampled_from(["same", "other"])),
        gives=gives,
        asks=asks,
        marked=shape == "one node" or draw(st.booleans()),
        checkpointer=asks != "nobody" or draw(st.booleans()),
        store=draw(st.booleans()),
        cache=draw(st.booleans()),
        middleware=tuple(draw(st.sets(st.sampled_from(["todo", "limit", "counting"])))) if agent else (),
    )


def plainly(messages: list[BaseMessage]) -> list[Any]:
    """Messages without their ids, which are drawn."""
    return [
        (
            one.type,
            one.content,
            getattr(one, "tool_calls", None),
            getattr(one, "artifact", None),
            getattr(one, "status", None),
            one.additional_kwargs,
            one.name,
        )
        for one in messages
    ]


def values(state: dict[str, Any]) -> dict[str, Any]:
    return {key: plainly(one) if key == "messages" else one for key, one in state.items() if key != "__interrupt__"}


def stored(world: World) -> Any:
    if world.store is None:
        return None
    found = world.store.search((), limit=1000)
    return sorted((item.namespace, str(item.value)) for item in found)


async def run_plainly(world: World, words: list[str]) -> Any:
    """Turns of the app itself. Every interrupt is answered with yes."""
    out: Any = {"messages": []}
    for said in words:
        asked = [HumanMessage(said)] if world.saver else [*out["messages"], HumanMessage(said)]
        out = await world.app.ainvoke({"messages": asked}, LIVE)
        while out.get("__interrupt__"):
            out = await world.app.ainvoke(Command(resume={one.id: "yes" for one in out["__interrupt__"]}), LIVE)
    return out


async def run_ahead(world: World, words: list[str], described: Description) -> Any:
    """The same turns by a lookahead agent. In the simulation the policy answers otherwise than for real."""
    from collab_agents import is_simulating

    assistant = GraphAssistant(
        world.app,
        simulate_tools={} if described.marked else {"pay": simulated_by(described)},
        interrupts=lambda value: "would" if is_simulating() else "yes",
        rewrites_history=True,
    )
    agent = create_lookahead_agent(
        assistant, ScriptedUser(["and then?"] * 9), COST, candidates=2, futures=1, agree=lambda texts: False
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


@pytest.mark.parametrize("shape", get_args(Shape))
@settings(max_examples=34, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
async def test_an_app_ends_as_a_plain_run_of_it(shape: Shape, data: Any) -> None:
    described = data.draw(descriptions(shape))
    plain, ahead = make(described), make(described)
    words = ["a mug", "two cups"]
    expected, came = await run_plainly(plain, words), await run_ahead(ahead, words, described)
    assert ahead.done == plain.done
    assert {key: one for key, one in values(came).items() if key in expected} == values(expected)
    assert stored(ahead) == stored(plain)
    if plain.saver:
        was, now = await plain.app.aget_state(LIVE), await ahead.app.aget_state(LIVE)
        assert values(now.values) == values(was.values)
        assert (now.next, now.interrupts) == (was.next, was.interrupts)
    # And goes on as it does, by itself.
    if plain.saver:
        expected, came = await run_plainly(plain, ["one more"]), await run_plainly(ahead, ["one more"])
        assert values(came) == values(expected)
        assert (ahead.done, stored(ahead)) == (plain.done, stored(plain))
