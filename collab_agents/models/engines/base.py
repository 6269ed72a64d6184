"""What an engine is given and what it returns. Prompts are tokens, so that only a chat template writes special ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from collab_agents.models.chat_template import chat_tokens
from collab_agents.trajectories import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class CannotRun(Exception):
    """An engine cannot run a model, which another one may. The message says why."""


def one_line(error: Exception) -> str:
    """Return what an error of an engine's libraries says, which may have several lines or none."""
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True)
class Job:
    """One prompt and how to continue it."""

    prompt: list[int]
    max_tokens: int
    temperature: float
    """0 is greedy."""
    top_p: float
    seed: int
    """Decides the sample."""
    stop: tuple[str, ...] = ()
    constraint: Mapping[str, str] = field(default_factory=dict)
    """What the completion must match: a "regex" or a "json_schema" (as JSON). Empty for free text."""
    listen: Callable[[str], None] | None = None
    """Called on the engine's thread after every token, with the settled beginning of the completion."""


@dataclass(frozen=True)
class Completion:
    text: str
    tokens: int
    finish_reason: str
    ids: list[int] = field(default_factory=list)
    """The tokens that were sampled, with the one that ended the text; empty if the engine does not tell."""
    logprobs: Sequence[float | None] = field(default_factory=list)
    """Their log-probabilities at the job's temperature, before `top_p`; None where unknown, empty if the engine does
    not tell."""


class Engine(Protocol):
    """A causal language model and its tokenizer, which generate for several callers at once."""

    context: int
    """The most tokens of a prompt and its completion together."""
    temperature: float
    """The default, from the model's own configuration."""
    constrains: bool
    """Whether it keeps to `Job.constraint`."""

    def encode(self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]] | None = None) -> list[int]:
        """Return the tokens of a conversation that the assistant is to continue."""
        ...

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, in which special tokens are text too."""
        ...

    async def complete(self, job: Job) -> Completion:
        """Continue a prompt. Cancelling the call ends the generation."""
        ...


class Tokenizes:
    """What every engine does with its tokenizer."""

    tokenizer: "PreTrainedTokenizerBase"

    def encode(self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]] | None = None) -> list[int]:
        return chat_tokens(self.tokenizer, messages, tools=tools, add_generation_prompt=True)

    def tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids


def finished(text: str, job: Job, tokens: int, finish_reason: str) -> Completion:
    """Return the completion with the text up to the first stop text."""
    for stop in job.stop:
        if stop in text:
            text, finish_reason = text.partition(stop)[0], "stop"
    return Completion(text.strip(), tokens, finish_reason)


def settled(text: str, stops: Sequence[str]) -> str:
    """Return the part of an unfinished text that later tokens cannot change.

    It leaves out an incomplete character, a possible beginning of a stop text, and trailing space.
    """
    held = max((len(stop) - 1 for stop in stops), default=0)
    text = text[: len(text) - held]
    for stop in stops:
        text = text.partition(stop)[0]
    return text.rstrip("\ufffd").strip()
