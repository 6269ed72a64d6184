"""How far to look ahead, and what it may cost."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from collab_agents._internal.reasons import first_problem
from collab_agents.errors import ConfigError

MAX_EXCHANGES = 8
"""Exchanges after which a conversation ends, unless others are chosen."""


class Lookahead(BaseModel):
    """How far and how wide to look ahead."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidates: PositiveInt = 3
    """Replies sampled at a turn."""
    futures: PositiveInt = 3
    """Futures played after each candidate."""
    window: NonNegativeInt = 2
    """Exchanges in a future (one user and one assistant message each)."""
    max_exchanges: PositiveInt = MAX_EXCHANGES
    """Exchanges after which the conversation ends."""
    proactive_ratio: float = Field(default=0.0, ge=0, le=1)
    """The share of candidates that are sampled with the assistant's proactive prompt, in [0, 1]."""

    @property
    def proactive_candidates(self) -> int:
        """The number of proactive candidates: the share, rounded half up, and at least 1 if the share is above 0."""
        return max(1, int(self.candidates * self.proactive_ratio + 0.5)) if self.proactive_ratio else 0


SERVING = Lookahead(futures=2, window=1)
"""The default where somebody waits for one reply: while serving, and for the reward of a reply in training."""

ON_A_SERVER = Lookahead(candidates=2, futures=2, window=1, max_exchanges=3, proactive_ratio=0.5)
"""The default of the graphs on a LangGraph server: small enough for the embedded model on a processor."""


class Budget(BaseModel):
    """What one reply by lookahead may cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: PositiveFloat | None = None
    """Seconds after which the first candidate is given; None waits for the lookahead."""
    calls: PositiveInt | None = None
    """Model calls that may be started; a call's retries are part of it. None is unlimited."""
    grace: PositiveFloat = 60.0
    """Seconds for one last call, if the budget is spent and there is no reply yet."""


def check_lookahead(**chosen: Any) -> Lookahead:
    """Return a `Lookahead` with the chosen values. Raises ConfigError for a value out of range."""
    try:
        return Lookahead(**chosen)
    except ValidationError as error:
        raise ConfigError(first_problem(error)) from error
