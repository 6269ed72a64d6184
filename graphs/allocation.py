"""The nodes of a rollout that give the candidates of an open turn further futures."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.types import Send

from collab_agents._internal.reasons import reason_of
from collab_agents._internal.seeds import derive_seed
from collab_agents._internal.tracing import traced
from collab_agents.allocation import further_futures
from collab_agents.graphs.futures import counts, means_of, rewards_of
from collab_agents.graphs.nodes import Node, running, turn_of
from collab_agents.graphs.states import State, Update, branch_of
from collab_agents.lookahead import Components, Lookahead
from collab_agents.messages import to_dicts
from collab_agents.trajectories import Expected
from collab_agents.value import ValueModel
from collab_agents.variance import likely_components

logger = logging.getLogger(__name__)


def merged(gathered: Sequence[State]) -> list[dict[str, Any]]:
    """Return a turn's candidates by index, each with its further futures, in order, and the means of all of them."""
    candidates = sorted((dict(one) for one in gathered if "further" not in one), key=lambda one: one["index"])
    for index, candidate in enumerate(candidates):
        further = [one for one in gathered if "further" in one and one["index"] == index]
        further.sort(key=lambda one: one["further"])
        if further:
            candidate["futures"] = [*candidate["futures"], *(one["future"] for one in further)]
            candidate |= means_of(candidate["futures"])
    return candidates


def components_of(
    state: State, candidates: Sequence[State], lookahead: Lookahead, value: ValueModel | None
) -> Components | None:
    """Return the variances that are given, or estimate them from the first futures of the conversation so far."""
    if lookahead.components is not None:
        return lookahead.components
    if value is not None:
        return value.components
    turns = [[one["futures"] for one in turn["candidates"]] for turn in state.get("turns", [])]
    turns.append([one["futures"] for one in candidates])
    return likely_components([[_counted(futures[: lookahead.futures]) for futures in turn] for turn in turns])


def expect_node(value: ValueModel) -> Node:
    """Return a node that asks a value model what it expects of the candidates."""

    async def expect(state: State) -> Update:
        candidates = merged(state["candidates"])
        there = [one for one in candidates if one["error"] is None]
        replies = [to_dicts(one["reply"]) for one in there]
        try:
            found = await value.expect(to_dicts(state["messages"]), replies) if replies else []
            expected = {one["index"]: each.model_dump() for one, each in zip(there, found, strict=True)}
        except Exception as error:
            logger.warning("the value model failed, so the futures alone decide: %s", reason_of(error))
            expected = {}
        return {"expected": [expected.get(one["index"]) for one in candidates]}

    return expect


def expected_of(state: State) -> list[Expected | None] | None:
    """Return what the turn's value model expects, by candidate, or None without one."""
    expected = state.get("expected")
    return expected and [one and Expected.model_validate(one) for one in expected]


def allocate_node(lookahead: Lookahead, value: ValueModel | None) -> Node:
    """Return a node that decides how many futures each candidate gets next."""

    async def allocate(state: State) -> Update:
        candidates = merged(state["candidates"])
        components = components_of(state, candidates, lookahead, value)
        rewards = [rewards_of(one["futures"]) for one in candidates]
        return {"more": further_futures(rewards, components, lookahead, expected_of(state))}

    return allocate


def branch_further(state: State, *, own_futures: bool) -> list[Send]:
    """Return a branch for each future that `allocate` added."""
    sends = []
    for one, count in zip(merged(state["candidates"]), state["more"], strict=True):
        if not count:
            continue
        branch = branch_of(state) | {
            "messages": [*state["messages"], *one["reply"]],
            "assistant_memory": one["assistant_memory"],
            "index": one["index"],
        }
        if not own_futures:
            branch["memory"] = {}
        for number in range(len(one["futures"]), len(one["futures"]) + count):
            seed = derive_seed(one["seed"], "future", number)
            sends.append(Send("future", branch | {"future": number, "seed": seed}))
    return sends


def further_node(play: Node) -> Node:
    """Return a node that plays one more future of a candidate with `play`, a `future_node`."""

    @running(vars(play)["graph"])
    async def future(state: State) -> Update:
        with traced(turn=turn_of(state), candidate=state["index"]):
            (record,) = (await play(state))["futures"]
        return {"candidates": [{"index": state["index"], "further": state["future"], "future": record}]}

    return future


def _counted(futures: Sequence[Mapping[str, Any]]) -> list[float]:
    return [one["reward"] for one in futures if counts(one)]
