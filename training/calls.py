"""What the model in training was asked, and the tokens it sampled.

A call is known by the seed of its turn, which the branch, the future and the turn decide. So the tokens need not be
guessed from the text of a turn, which may have several tokenizations, and lacks special tokens.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from collab_agents._internal.seeds import branch_seed
from collab_agents.graphs.futures import future_seed
from collab_agents.graphs.nodes import assistant_seed
from collab_agents.models.engines.base import Completion, Engine, Job
from collab_agents.trajectories import Message


@dataclass(frozen=True)
class Call:
    """A call of the model in training."""

    prompt: list[int]
    """The tokens of the prompt, as the model was given them."""
    completion: list[int]
    """The tokens that were sampled, with the one that ended the turn."""
    logprobs: Sequence[float | None] = field(default_factory=list)
    """Their log-probabilities by the engine, None where unknown; empty if it does not tell."""


Heard = Mapping[int, Sequence[Call]]
"""The calls of turns, by the turns' seeds. An app may make several in a turn."""

_heard: ContextVar[defaultdict[int, list[Call]] | None] = ContextVar("collab_agents_calls", default=None)


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
            turn = branch_seed()  # The seeds of an app's calls are derived from that of its turn.
            call = Call(job.prompt, completion.ids, completion.logprobs)
            heard[job.seed if turn is None else turn].append(call)
        return completion


@contextmanager
def recording() -> Iterator[Heard]:
    """Yield the calls of the model in training that are made inside, in tasks started there too."""
    heard: defaultdict[int, list[Call]] = defaultdict(list)
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)


def calls_in(heard: Heard, seed: int, start: int, futures: Sequence[Mapping[str, Any]]) -> list[list[Call]]:
    """Return the calls of each future's assistant turns, in order. A turn of another model has none.

    Args:
        heard: The calls.
        seed: The seed of the reply's lookahead.
        start: How many messages came before the futures.
        futures: The futures' records, in order.
    """
    found = []
    for index, future in enumerate(futures):
        branch = future_seed(seed, index)
        seeds = [assistant_seed(branch, start + said) for said in range(len(future["messages"]))]
        found.append([call for one in seeds for call in heard.get(one, ())])
    return found
