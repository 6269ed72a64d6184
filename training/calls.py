"""What the model in training was asked in the futures of a reply, and the tokens it sampled.

A call is known by its seed, which the branch, the future and the turn decide. So the tokens need not be guessed from
the text of a turn, which may have several tokenizations, and lacks special tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from collab_agents.graphs.futures import future_seed
from collab_agents.graphs.nodes import assistant_seed
from collab_agents.models.engines.base import Completion, Engine, Job
from collab_agents.trajectories import Message

_heard: ContextVar[dict[int, "Call"] | None] = ContextVar("collab_agents_calls", default=None)


@dataclass(frozen=True)
class Call:
    """A call of the model in training."""

    prompt: list[int]
    """The tokens of the prompt, as the model was given them."""
    completion: list[int]
    """The tokens that were sampled, with the one that ended the turn."""
    logprobs: list[float | None] = field(default_factory=list)
    """Their log-probabilities by the engine, None where unknown; empty if it does not tell."""


class PolicyEngine:
    """The engine of the model in training, which records its calls."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.context = engine.context
        self.temperature = engine.temperature
        self.constrains = engine.constrains

    def encode(self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]] | None = None) -> list[int]:
        return self._engine.encode(messages, tools)

    def tokens(self, text: str) -> list[int]:
        return self._engine.tokens(text)

    async def complete(self, job: Job) -> Completion:
        completion = await self._engine.complete(job)
        heard = _heard.get()
        if heard is not None:
            heard[job.seed] = Call(job.prompt, completion.ids, completion.logprobs)
        return completion


@contextmanager
def recording() -> Iterator[dict[int, Call]]:
    """Yield the calls of the model in training that are made inside, in tasks started there too, by their seeds."""
    heard: dict[int, Call] = {}
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)


def calls_in(
    heard: Mapping[int, Call], seed: int, start: int, futures: Sequence[Mapping[str, Any]]
) -> list[list[Call]]:
    """Return the calls of each future's assistant turns, in order. A turn that no call gave has none.

    Args:
        heard: The calls, by their seeds.
        seed: The seed of the reply's lookahead.
        start: How many messages came before the futures.
        futures: The futures' records, in order.
    """
    found = []
    for index, future in enumerate(futures):
        branch = future_seed(seed, index)
        turns = [i for i, message in enumerate(future["messages"]) if message["role"] == "assistant"]
        seeds = [assistant_seed(branch, start + turn) for turn in turns]
        found.append([heard[one] for one in seeds if one in heard])
    return found
