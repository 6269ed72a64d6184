"""How a task under way stands, told by its state and by the events of its graph."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage

from collab_agents.messages import is_users, text_of

_LONGEST = 160
"""Characters of a message that are kept."""


class Standing(NamedTuple):
    """How a task under way stands. The words are a model's: make them harmless before you show them."""

    turn: int = 1
    """The turn that is played, from 1; once the conversation has ended, its last."""
    candidates: int = 0
    """The candidates of this turn that are done, failed ones included."""
    speaker: str = ""
    """Who spoke last: "user", "assistant" or "tool"; "" before the first message."""
    words: str = ""
    """The first words of that message, in one line."""
    reward: float | None = None
    """The multiturn-aware reward of the candidate that was chosen last."""


def standing_of(state: Mapping[str, Any]) -> Standing:
    """Return how a task stands that goes on from a state."""
    turns = state.get("turns") or ()
    speaker, words = _last(state.get("messages") or ())
    return Standing(_turn(state), 0, speaker, words, _reward(turns[-1]) if turns else None)


def standing_after(now: Standing, event: Mapping[str, Any]) -> Standing:
    """Return how a task stands after an event of its graph, the updates by node."""
    for node, update in event.items():
        if not isinstance(update, Mapping):  # An interrupt.
            continue
        if node == "candidate":
            now = now._replace(candidates=now.candidates + 1)
        if node in ("choose", "assistant"):
            now = now._replace(turn=_turn(update), candidates=0)
        if turns := update.get("turns"):
            now = now._replace(reward=_reward(turns[-1]))
        speaker, words = _last(update.get("messages") or ())
        if words:
            now = now._replace(speaker=speaker, words=words)
    return now


def errors_in(event: Mapping[str, Any]) -> Iterator[str]:
    """Return what failed in an event of a graph, as kinds: candidates, futures, and judges that gave no score."""
    for node, update in event.items():
        if not isinstance(update, Mapping):
            continue
        if node == "judge":
            yield from _unscored(update)
        for one in update.get("candidates") or ():
            if one.get("error"):
                yield f"candidate failed: {common(one['error'])}"
            for future in [one["future"]] if "future" in one else one.get("futures", ()):
                if future["error"] and not future["scores"]:
                    yield f"future failed: {common(future['error'])}"
                yield from _unscored(future)


def common(reason: str) -> str:
    """Return what a reason has in common with those of other turns, candidates and futures."""
    return re.sub(r"\b(turn|candidate|future) \d+: ", "", reason)[:_LONGEST]


def _unscored(judged: Mapping[str, Any]) -> Iterator[str]:
    for name, score in judged["scores"].items():
        if score is None:
            yield f"no score by {name}: {common(judged['reasons'].get(name, ''))}"


def _turn(state: Mapping[str, Any]) -> int:
    return int(state.get("exchanges", 0)) + (not state.get("stopped"))


def _reward(turn: Mapping[str, Any]) -> float | None:
    reward: float | None = turn["candidates"][turn["chosen"]]["reward"]
    return reward


def _last(messages: Sequence[BaseMessage]) -> tuple[str, str]:
    """Return who said the last words, and the first of them."""
    for message in reversed(messages):
        if words := " ".join(text_of(message)[: 2 * _LONGEST].split()):
            speaker = "user" if is_users(message) else "tool" if message.type == "tool" else "assistant"
            return speaker, words[:_LONGEST]
    return "", ""
