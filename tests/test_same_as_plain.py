"""An app that is looked ahead with and executed ends as a plain run of it does: the same real calls, in the same order,

and the same messages, state, thread, store and cache.
"""

from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.app_shapes import Description, Shape, make, simulated_by
from tests.plain_and_ahead import LIVE, run_ahead, run_plainly, stored, values


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


@pytest.mark.parametrize("shape", get_args(Shape))
@settings(max_examples=34, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
async def test_an_app_ends_as_a_plain_run_of_it(shape: Shape, data: Any) -> None:
    described = data.draw(descriptions(shape))
    plain, ahead = make(described), make(described)
    words = ["a mug", "two cups"]
    tools = {} if described.marked else {"pay": simulated_by(described)}
    expected, came = await run_plainly(plain, words), await run_ahead(ahead, words, tools)
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
