"""This process's share of limits that hold for several processes together."""

import time
from dataclasses import dataclass

from collab_agents.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """One of `count` nearly equal shares of every limit of the chat models that are called over a network."""

    index: int = 0
    count: int = 1
    opens: float = 0.0
    """When, on the clock of `time.monotonic`, calls under a rate limit may begin."""

    def of(self, limit: int, name: str) -> int:
        """Return this share of a limit. Raises ConfigError, which names the limit, if nothing is left for it."""
        share = limit // self.count + (self.index < limit % self.count)
        if share < 1:
            raise ConfigError(
                f"limits.{name} is {limit}, and {self.count} workers share it: raise it, or use at most {limit} workers"
            )
        return share

    def seconds_until_open(self) -> float:
        return max(0.0, self.opens - time.monotonic())


_share = Share()


def share() -> Share:
    """Return this process's share; by default everything."""
    return _share


def take_share(mine: Share) -> None:
    """Let chat models that are loaded from now on take this share of their limits."""
    global _share
    _share = mine
