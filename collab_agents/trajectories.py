"""The record of a task: Trajectory > Turn > Candidate > Future, and its store of one JSON line each."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from collab_agents._internal.addresses import Address, place_at, spelled
from collab_agents._internal.parts import Part, files_in, parsed, part_at, parts_of, whole_lines
from collab_agents._internal.reasons import first_problem
from collab_agents._internal.secrets import mask
from collab_agents._internal.text import valid
from collab_agents._internal.whole import replacing
from collab_agents.errors import RunDirectoryError
from collab_agents.lookahead import Components
from collab_agents.personas import Persona
from collab_agents.tasks import Task
from collab_agents.usage import Usage

R = TypeVar("R", bound=BaseModel)
Message = dict[str, Any]
"""A message as a role/content dict in the OpenAI format."""


class Record(BaseModel):
    """The base of what is kept on disk as JSON. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Future(Record):
    """One way in which a conversation continued after a candidate."""

    messages: list[Message] = Field(default_factory=list)
    """What was said after the candidate."""
    reward: float | None = None
    """R* of the finished conversation. None, with an `error`, if the future failed or could not be scored; it is then
    left out of means."""
    scores: dict[str, float | None] = Field(default_factory=dict)
    """By judge."""
    reasons: dict[str, str] = Field(default_factory=dict)
    """By judge."""
    dropped: list[str] = Field(default_factory=list)
    """The kinds of fault of its simulated user (`judges.FaultKind`) for which it is left out of means, although it may
    have a reward. Empty if it is not; see `Lookahead.drop_faulty`."""
    error: str | None = None

    @property
    def counts(self) -> bool:
        """Whether it is in the means of its candidate: it has a reward, and was not dropped."""
        return self.reward is not None and not self.dropped


class Expected(Record):
    """What a value model expects of a candidate before any of its futures, see `collab_agents.value`."""

    mean: float
    """The expected reward; only differences within the turn count."""
    variance: float
    """The variance of the true reward around it."""


class Candidate(Record):
    """One reply that the assistant could have given."""

    messages: list[Message] = Field(default_factory=list)
    """The reply, tool messages included."""
    proactive: bool = False
    """Whether it was sampled with the proactive prompt."""
    reward: float | None = None
    """The multiturn-aware reward: the mean over the futures that count. None, with an `error`, if the reply failed or
    no future counts."""
    scored: int = 0
    """The number of futures that count."""
    standard_error: float | None = None
    """The standard error of `reward`, a mean of `scored` futures; None for fewer than two."""
    expected: Expected | None = None
    """What a value model expected of it; None without one."""
    scores: dict[str, float | None] = Field(default_factory=dict)
    """Each judge's mean over the futures that count."""
    futures: list[Future] = Field(default_factory=list)
    error: str | None = None

    def rewards(self, first: int | None = None) -> list[float]:
        """Return the rewards of the futures that count, or of those among the first ones."""
        return [one.reward for one in self.futures[:first] if one.counts and one.reward is not None]

    @model_validator(mode="after")
    def _count(self) -> Self:
        rewards = self.rewards()
        self.scored = len(rewards)
        self.standard_error = _standard_error(rewards)
        return self


class Turn(Record):
    """One turn of the assistant."""

    prompt: list[Message]
    """The conversation up to and including the user's message."""
    chosen: int
    """The index of the candidate that continued the conversation: the one with the highest reward, or a person's reply.

    With adaptive allocation or a value model it is the one with the highest expected reward, see
    `allocation.best_candidate`."""
    candidates: list[Candidate]
    first_futures: int | None = None
    """With adaptive allocation, how many futures every candidate had before some got more. See `rewards.unbiased`."""
    components: Components | None = None
    """With adaptive allocation or a value model, the variances of rewards with which the choice was made."""

    def _repr_html_(self) -> str | None:
        try:
            from collab_agents.view.notebook import turn_html
        except ImportError:  # Without the extra `view`, a notebook shows it as text.
            return None
        return turn_html(self)


class Trajectory(Record):
    """A finished task: the conversation, and every turn with all its candidates and futures."""

    task: Task
    persona: Persona | None = None
    seed: int = 0
    messages: list[Message]
    stopped: Literal["user", "max_turns", "interrupted"]
    """Whether the user ended the conversation, it reached its last exchange, or (in a session with a person) the person
    or an error broke it off."""
    turns: list[Turn]
    """Empty if the task was played without lookahead."""
    reward: float | None = None
    """R* of the whole conversation, or None if it could not be judged. `scores` and `reasons` are also of the whole."""
    scores: dict[str, float | None] = Field(default_factory=dict)
    reasons: dict[str, str] = Field(default_factory=dict)
    usage: Usage = Field(default_factory=Usage)

    def _repr_html_(self) -> str | None:
        try:
            from collab_agents.view.notebook import trajectory_html
        except ImportError:  # As for a turn.
            return None
        return trajectory_html(self)


class Failure(Record):
    """A task that could not be finished, and why."""

    task: Task
    persona: Persona | None = None
    """Who should have played it. None too if an earlier version recorded it."""
    error: str


def _standard_error(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((one - mean) ** 2 for one in values) / (len(values) - 1) / len(values))


def line_of(record: BaseModel) -> str:
    """Return a record as a line of a file, without the line break."""
    try:
        return record.model_dump_json()
    except ValueError:  # Half a character in what nobody checks, such as a task's metadata.
        return json.dumps(valid(record.model_dump()), default=str)


def _owners_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def opener(private: bool) -> Callable[[str, int], int] | None:
    """For `open`: makes a file for its owner alone, or as the umask says."""
    return _owners_alone if private else None


class JsonlStore:
    """A file of one JSON object a line, appended to by one process at a time.

    A line counts once it is on the disk with its line break. What a killed process left of a line is cut off when
    the file is opened to append. private: whether it is made for its owner alone, whatever the umask. Keys that this
    process knows are masked in what is written.
    """

    def __init__(self, path: str | Path, *, private: bool = True) -> None:
        self.path = Path(path)
        self.opener = opener(private)

    def open(self) -> None:
        """Make the file, or cut off the torn line at its end."""
        with open(self.path, "a+b", opener=self.opener) as file:
            size = file.seek(0, os.SEEK_END)
            end = size
            while end:
                start = max(0, end - 65536)
                file.seek(start)
                found = file.read(end - start).rfind(b"\n")
                end = start + found + 1 if found >= 0 else start
                if found >= 0:
                    break
            if end != size:
                file.truncate(end)

    def append(self, record: BaseModel | str, *, sync: bool = True) -> int:
        """Write the record, or its line, and return the file's size since. If it raises, nothing is left of the line.

        With `sync` the line is on the disk when this returns, else once `sync` has returned.
        """
        line = f"{mask(record if isinstance(record, str) else line_of(record))}\n".encode()
        with open(self.path, "ab", buffering=0, opener=self.opener) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                written = 0
                while written < len(line):
                    written += file.write(line[written:])
                if sync:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
        return size + len(line)

    def sync(self) -> None:
        """Bring all lines that were appended to the disk."""
        with open(self.path, "ab", buffering=0, opener=self.opener) as file:
            os.fsync(file.fileno())

    def replace(self, records: Iterable[BaseModel]) -> None:
        """Put the records in the place of all there are, in one step."""
        with replacing(self.path, self.opener) as file:
            file.writelines(f"{mask(line_of(one))}\n" for one in records)

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Line numbers and objects, one at a time; nothing if there is no file."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            for number, line in whole_lines(file):
                yield number, parsed(line, self.path, number)


def read_trajectories(path: str | os.PathLike[str]) -> Iterator[Trajectory]:
    """The finished trajectories of a run directory, or of a JSONL or Parquet file of them, one at a time.

    Either may be at an address, such as s3://bucket/run.

    Raises RunDirectoryError, which names the line, for one that is not a trajectory.
    """
    for part, number, line in read_lines(path):
        yield trajectory_on(line, part.path, number)


def trajectory_on(line: bytes, file: object, number: int) -> Trajectory:
    """Return the trajectory on a line. Raises RunDirectoryError, which names the line, if it is not one."""
    try:
        return Trajectory.model_validate_json(line)
    except ValidationError:  # Its message for a line that is not JSON is another.
        return read_record(Trajectory, parsed(line, file, number), file, number)


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[Part, int, bytes]]:
    """The lines of a run directory, or of a file of trajectories: their file, number and bytes."""
    for part in parts_at(path):
        for number, line in part.lines():
            yield part, number, line


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether this is a run directory, or any address: only trajectories are read from those."""
    place = place_at(path)
    return isinstance(place, Address) or bool(_MARKS & files_in(place).keys())


_MARKS = {"run.json", "trajectories.jsonl"}


def parts_at(path: str | os.PathLike[str]) -> list[Part]:
    """Return the files with the trajectories of a run directory, or the file of them that this is."""
    place = place_at(path)
    files, parts = files_in(place), parts_of(place)
    if _MARKS & files.keys():
        return parts
    if parts:
        raise RunDirectoryError(f"{spelled(path)} has parts and no run.json: it was not written to its end")
    if isinstance(place, Address):
        if (size := place.size()) is not None:
            return [Part(place, size)]
    elif place.is_file():
        return [part_at(place)]
    raise RunDirectoryError(f"{spelled(path)}: there is no trajectories.jsonl; is it a run directory?")


def read_record(kind: type[R], line: Mapping[str, object], file: object, number: int) -> R:
    """A line as a record. Raises RunDirectoryError, which names the line."""
    try:
        return kind.model_validate(line)
    except (ValidationError, RecursionError) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else "it is nested too deep"
        raise RunDirectoryError(f"{file}:{number}: {why}") from error
