"""Where the steps are in a training's samples.jsonl, which grows, and is replaced when the training is resumed."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from collab_agents._internal.parts import parsed, whole_lines
from collab_agents.errors import RunDirectoryError
from collab_agents.rewards import mean
from collab_agents.training.samples import SAMPLES, Sample
from collab_agents.trajectories import read_record


@dataclass
class Step:
    """A step of which samples were recorded."""

    number: int
    tasks: list[str] = field(default_factory=list)
    replies: int = 0
    rewards: list[float] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """Where the lines of its samples begin, in bytes."""

    @property
    def mean(self) -> float | None:
        return mean(self.rewards)


class SampleSteps:
    """The steps of a training that have samples. Several threads may ask at once.

    Attributes:
        problems: What is wrong with lines that are not samples.
        end: The bytes that were read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.problems: list[str] = []
        self.end = 0
        self._steps: dict[int, Step] = {}
        self._lines = 0
        self._file_id = 0
        self._path = Path(folder) / SAMPLES
        self._lock = Lock()

    def all(self) -> list[Step]:
        """Return the steps so far, the latest first."""
        with self._lock:
            try:
                with open(self._path, "rb") as file:
                    self._read_on(file)
            except FileNotFoundError:
                self._forget()
            return [*self._steps.values()][::-1]

    def at(self, number: int) -> tuple[list[Sample], int | None, int | None]:
        """Return a step's samples, and the steps before and after it.

        Raises:
            LookupError: If there are none of it.
        """
        with self._lock:
            try:
                with open(self._path, "rb") as file:
                    self._read_on(file)
                    samples = [self._sample(file, place) for place in self._steps[number].places]
            except FileNotFoundError:
                raise LookupError(number) from None
            numbers = [*self._steps]
            index = numbers.index(number)
            before, after = numbers[:index], numbers[index + 1 :]
            return samples, before[-1] if before else None, after[0] if after else None

    def _forget(self) -> None:
        self._steps = {}
        self.problems = []
        self.end = self._lines = 0

    def _read_on(self, file: BinaryIO) -> None:
        stat = os.fstat(file.fileno())
        if stat.st_ino != self._file_id or stat.st_size < self.end:
            self._forget()
            self._file_id = stat.st_ino
        file.seek(self.end)
        for number, line in whole_lines(file, self._lines):
            try:
                sample = read_record(Sample, parsed(line, self._path, number), self._path, number)
            except RunDirectoryError as error:
                self.problems.append(str(error))
            else:
                step = self._steps.setdefault(sample.step, Step(sample.step))
                step.tasks.append(sample.task.id)
                step.replies += len(sample.replies)
                step.rewards += sample.rewards
                step.places.append(self.end)
            self._lines = number
            self.end += len(line) + 1

    def _sample(self, file: BinaryIO, place: int) -> Sample:
        file.seek(place)
        return Sample.model_validate_json(file.readline())
