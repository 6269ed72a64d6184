"""Random apps that are looked ahead with and executed end as plain runs of them do.

The real calls are the same, in the same order, and so are messages, state, thread, store and cache.
"""

from random import Random
from typing import Any, get_args

import pytest

from tests.support.app_shapes import Description, Shape, World, make, simulated_by
from tests.support.plain_and_ahead import LIVE, run_ahead, run_plainly, stored, values

APPS_OF_A_SHAPE = 8


def description(shape: Shape, chance: Random) -> Description:
    agent = shape.startswith("create_agent")
    asks: Any = chance.choice(["nobody", "nobody", "tool", *([] if agent or shape == "one node" else ["node"])])
    # A node that calls tools in its own code gives them no state or store; a tool of an agent that is called in a node
    # returns no command to a state that is not there.
    gives: Any = chance.choice(["text"] if shape == "one node" else ["text", "artifact", "store", "command"])
    if gives == "command" and agent:
        gives = "artifact"
    return Description(
        shape=shape,
        rounds=tuple(chance.randint(1, 3) for _ in range(chance.randint(1, 2))),
        reads=chance.random() < 0.5,
        answers=chance.choice(["same", "other"]),
        gives=gives,
        asks=asks,
        marked=shape == "one node" or chance.random() < 0.5,
        checkpointer=asks != "nobody" or chance.random() < 0.5,
        store=chance.random() < 0.5,
        cache=chance.random() < 0.5,
        middleware=tuple(one for one in ("todo", "limit", "counting") if agent and chance.random() < 0.5),
    )


@pytest.mark.parametrize("number", range(APPS_OF_A_SHAPE))
@pytest.mark.parametrize("shape", get_args(Shape))
async def test_an_app_ends_as_a_plain_run_of_it(shape: Shape, number: int) -> None:
    described = description(shape, Random(f"{shape} {number}"))
    plain, ahead = make(described), make(described)
    words = ["a mug", "two cups"]
    tools = {} if described.marked else {"pay": simulated_by(described)}
    expected, came = await run_plainly(plain, words), await run_ahead(ahead, words, tools)
    assert in_order(ahead) == in_order(plain)
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
        assert (in_order(ahead), stored(ahead)) == (in_order(plain), stored(plain))


def in_order(world: World) -> list[str]:
    """The real calls in their order. Nodes that run in parallel may come in either order, so each has its own part."""
    return sorted(world.done, key=lambda call: "right" in call)
