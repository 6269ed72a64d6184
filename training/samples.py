"""The record of what an online training sampled: a prompt, the replies to it, their rewards and futures.

It loads no trainer, so that a training can be looked at where none is installed.
"""

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from collab_agents.personas import Persona
from collab_agents.rewards import mean
from collab_agents.tasks import Task
from collab_agents.trajectories import Future, JsonlStore, Message, Record, read_record

SAMPLES = "samples.jsonl"
"""The file in a training's folder, with a `Sample` a line."""


class SampledFuture(Future):
    """A future of a reply that the model in training sampled."""

    policy_step: int | None = None
    """The optimizer steps behind the weights that played it; None if another assistant played it."""


class SampledReply(Record):
    """A reply that the model in training sampled."""

    messages: list[Message]
    reward: float | None = None
    """The multiturn-aware reward: the mean over the futures that were `played` and count. None if it could not be
    scored."""
    scores: dict[str, float | None] = Field(default_factory=dict)
    """Each judge's mean over the same futures."""
    played: int = 0
    """The number of its futures."""
    futures: list[SampledFuture] = Field(default_factory=list)
    """The first of them."""
    error: str | None = None
    """Why no future was played."""


class Sample(Record):
    """A prompt, and the replies to it that a step of the training learnt from."""

    step: int
    """The optimizer step, from 1, as in the log. One that learns again from earlier replies has none of its own."""
    task: Task
    persona: Persona | None = None
    prompt: list[Message]
    replies: list[SampledReply]

    @property
    def rewards(self) -> list[float]:
        """The rewards of the replies that have one."""
        return [one.reward for one in self.replies if one.reward is not None]

    @property
    def mean_reward(self) -> float | None:
        """The mean of `rewards`; None if there is none."""
        return mean(self.rewards)


def read_samples(folder: str | Path) -> Iterator[Sample]:
    """Yield what a training recorded, one sample at a time.

    Args:
        folder: The training's folder. A line that is being written, or that a kill cut short, does not count.

    Raises:
        RunDirectoryError: For a damaged line, which it names.
    """
    file = Path(folder) / SAMPLES
    for number, line in JsonlStore(file).lines():
        yield read_record(Sample, line, file, number)
