"""How far to look ahead, and what it may cost."""

from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from collab_agents._internal.reasons import first_problem
from collab_agents.errors import ConfigError

MAX_EXCHANGES = 8
"""Exchanges after which a conversation ends, unless others are chosen."""
_MOST_FUTURES = 16


class Components(BaseModel):
    """The variances of rewards within turns, see `collab_agents.variance`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    between: NonNegativeFloat
    """Between the candidates of a turn, in squared units of the reward. An estimate below 0 is taken as 0."""
    within: NonNegativeFloat
    """Between the futures of a candidate."""

    def reliability(self, futures: float) -> float | None:
        """Return the reliability of the mean of so many futures, in [0, 1], or None if rewards do not vary."""
        total = self.between + self.within / futures
        return self.between / total if total > 0 else None


class Lookahead(BaseModel):
    """How far and how wide to look ahead."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidates: PositiveInt = 3
    """Replies sampled at a turn."""
    futures: PositiveInt = 3
    """Futures played after each candidate; with `allocation: adaptive`, the first ones."""
    window: NonNegativeInt = 2
    """Exchanges in a future (one user and one assistant message each)."""
    max_exchanges: PositiveInt = MAX_EXCHANGES
    """Exchanges after which the conversation ends."""
    proactive_ratio: float = Field(default=0.0, ge=0, le=1)
    """The share of candidates that are sampled with the assistant's proactive prompt, in [0, 1]."""
    allocation: Literal["uniform", "adaptive"] = "uniform"
    """Whether all candidates have the same number of futures, or further ones go where the choice of a turn is open."""
    max_futures: PositiveInt | None = None
    """adaptive: the most futures of a candidate; by default 16, or `futures` if that is more."""
    confidence: float = Field(default=0.8, gt=0, lt=1)
    """adaptive, or serving with a value: the probability of a good choice with which a turn is decided, between 0 and
    1."""
    indifference: float = Field(default=0.0, ge=0)
    """adaptive, or serving with a value: a candidate whose reward is lower than the best by at most this is a good
    choice."""
    minimum_gain: NonNegativeFloat | None = None
    """adaptive: by how much a further future must be expected to raise the reward of the choice; by default by 0.005
    standard deviations between candidates."""
    components: Components | None = None
    """adaptive: how much rewards vary, as an earlier run's `reliability` says; by default each conversation's guess, or
    what the `value` says."""
    value: str | None = None
    """A folder that `collab-agents train value` wrote. What it expects of a candidate is the prior of the mean of its
    futures, in the choice and in the adaptive allocation."""
    drop_faulty: bool = False
    """Whether futures in which the simulated user makes a fault are left out of means. The judge that looks for faults,
    `user_faults`, is added with weight 0 if the reward has none. A future that it cannot review is kept."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("max_futures", "minimum_gain", "components"):
            if self.allocation == "uniform" and getattr(self, name) is not None:
                raise ValueError(f"{name} needs allocation: adaptive")
        if self.components is not None and self.value is not None:
            raise ValueError("components cannot be combined with a value, which has its own")
        if self.allocation == "adaptive" and self.futures < 2 and self.components is None and self.value is None:
            raise ValueError(
                "allocation: adaptive needs 2 futures or more, which show how much rewards vary, or the components of "
                "an earlier run, or a value"
            )
        if self.max_futures is not None and self.max_futures < self.futures:
            raise ValueError(f"max_futures must be at least futures, {self.futures}, got {self.max_futures}")
        return self

    @property
    def most_futures(self) -> int:
        """The most futures of a candidate."""
        if self.allocation == "uniform":
            return self.futures
        return self.max_futures or max(_MOST_FUTURES, self.futures)

    @property
    def futures_in_words(self) -> str:
        """The number of a candidate's futures, or with adaptive allocation their fewest and most: "3" or "3 to 16"."""
        return f"{self.futures} to {self.most_futures}" if self.most_futures > self.futures else str(self.futures)

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
