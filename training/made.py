"""The rows of a dataset, and what they were made from."""

from collections import Counter
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from collab_agents.training import made_from
from collab_agents.training.on_disk import RowFile

_SAMPLE = 10_000


class Spread:
    """How numbers are spread: their count, the lowest and the highest, and at most 10,000 of them, drawn at random.

    Attributes:
        sample: All of the numbers, or such a sample (Vitter, 1985).
    """

    def __init__(self) -> None:
        self.count = 0
        self.low = float("inf")
        self.high = float("-inf")
        self.sample: list[float] = []
        self._random = Random(0)

    def add(self, value: float) -> None:
        self.count += 1
        self.low, self.high = min(value, self.low), max(value, self.high)
        if len(self.sample) < _SAMPLE:
            self.sample.append(value)
        elif (place := self._random.randrange(self.count)) < _SAMPLE:
            self.sample[place] = value

    def record(self) -> made_from.Spread | None:
        """Return what is kept of it, or None if there are no numbers."""
        if not self.count:
            return None
        low, middle, high = map(float, np.quantile(self.sample, (0.25, 0.5, 0.75)))
        return made_from.Spread(count=self.count, low=self.low, quartiles=(low, middle, high), high=self.high)


class Made:
    """A dataset's rows, and what they were made from.

    The rows are in a temporary file until the process ends, so that a dataset may be larger than memory.

    Attributes:
        kind: "sft", "preference", "prompts", "nested" or "flat".
        rewards: The reward of each row; for a pair, the chosen reply's.
        gaps: For each pair, the difference in reward.
        probabilities: For each pair, the probability that the chosen reply is better, if pairs were chosen by it.
        dropped: How many were left out, by reason.
        made_from: How many trajectories, or whatever `source` says, the rows were made from.
        source: What the rows were made from, in the plural.
    """

    def __init__(self, kind: str, *, source: str = "trajectories") -> None:
        self.kind = kind
        self.rewards = Spread()
        self.gaps = Spread()
        self.probabilities = Spread()
        self.dropped: Counter[str] = Counter()
        self.made_from = 0
        self.source = source
        self._rows = RowFile()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def add(
        self,
        row: dict[str, Any],
        *,
        reward: float | None = None,
        gap: float | None = None,
        probability: float | None = None,
    ) -> None:
        """Add a row with all its columns, and its reward, gap and probability to their spreads."""
        self._rows.append(row)
        if reward is not None:
            self.rewards.add(reward)
        if gap is not None:
            self.gaps.add(gap)
        if probability is not None:
            self.probabilities.add(probability)

    def keep(self, numbers: Iterable[int]) -> None:
        """Drop all rows but these, given in ascending order from 0."""
        self._rows.keep(numbers)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows as Arrow tables of a few hundred."""
        return self._rows.tables()

    def dataset(self) -> Dataset:
        """Return the rows as a dataset. It reads them from the disk."""
        return self._rows.dataset()

    def record(self) -> made_from.MadeFrom:
        """Return what is kept of it beside a model that was trained on it."""
        return made_from.MadeFrom(
            kind=self.kind,
            rows=len(self),
            made_from=self.made_from,
            source=self.source,
            dropped={reason: count for reason, count in self.dropped.most_common() if count},
            rewards=self.rewards.record(),
            gaps=self.gaps.record(),
            probabilities=self.probabilities.record(),
        )

    def report(self) -> str:
        """Return one line with the number of rows and trajectories, and what was left out."""
        left = "; ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        return f"{len(self)} {self.kind} rows of {self.made_from} {self.source}" + (
            f"; left out: {left}" if left else ""
        )
