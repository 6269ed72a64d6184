"""How far to look ahead, and what it may cost."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from collab_agents._internal.reasons import first_problem
from collab_agents.errors import ConfigError


class Lookahead(BaseModel):
    """How far and how wide to look.

    candidates: replies sampled at a turn. futures: of each candidate. window: exchanges in a future (one user and
    one assistant message each). max_exchanges: of the conversation. proactive_ratio: the share of candidates that
    are sampled with the assistant's proactive prompt, in [0, 1].
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidates: PositiveInt = 3
    futures: PositiveInt = 3
    window: NonNegativeInt = 2
    max_exchanges: PositiveInt = 8
    proactive_ratio: float = Field(default=0.0, ge=0, le=1)

    @property
    def proactive_candidates(self) -> int:
        """How many: half up, and at least one if any are wanted."""
        return max(1, int(self.candidates * self.proactive_ratio + 0.5)) if self.proactive_ratio else 0


SERVING = Lookahead(futures=2, window=1)
"""Where one reply is waited for: while serving, and for the reward of a reply in training."""


class Budget(BaseModel):
    """What one reply by lookahead may cost.

    seconds: until it has to be there. calls: of models, started for it; retries of a call are part of it.
    grace: seconds that the one call may take which is left when the budget is spent and there is no reply yet.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: PositiveFloat | None = None
    calls: PositiveInt | None = None
    grace: PositiveFloat = 60.0


def check_lookahead(**chosen: Any) -> Lookahead:
    """The chosen values, the rest by default. Raises ConfigError for one out of range."""
    try:
        return Lookahead(**chosen)
    except ValidationError as error:
        raise ConfigError(first_problem(error)) from error
