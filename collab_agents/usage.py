"""Counting model calls and tokens, per trajectory and per run, whoever makes the call."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult

from collab_agents.costs import DIGITS, Tokens, dollars_for


@dataclass
class Counts:
    """The number of answered model calls, and of the tokens they read and wrote, as the provider reports them."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unreported: int = 0
    """Calls for which the provider reported no tokens; these are missing in the other counts."""
    cached_tokens: int = 0
    """Those of `input_tokens` that the provider read from its cache."""
    priced: int = 0
    """Calls whose price was known."""
    dollars: float = 0.0
    """What these calls cost, by the prices of that day."""

    @property
    def cost(self) -> float | None:
        """What all calls cost in dollars, or None if that is unknown for one of them."""
        return self.dollars if self.priced == self.calls else None

    def add(self, other: "Counts") -> None:
        mine, theirs = vars(self), vars(other)  # Several times for every call: with setattr it takes twice as long.
        for name in _COUNTS:
            mine[name] += theirs[name]
        mine["dollars"] = round(mine["dollars"], DIGITS)


_COUNTS = [one.name for one in fields(Counts)]


@dataclass
class Usage(Counts):
    """`Counts` of all calls, and of the parts that each role and model has in them. Equal totals make it equal."""

    parts: dict[str, dict[str, Counts]] = field(default_factory=dict, compare=False)
    """Counts by role ("assistant", "user", "judge NAME" or "other") and, within a role, by model.

    Calls that an earlier version recorded are in the totals only.
    """

    def add(self, other: Counts) -> None:
        super().add(other)
        if isinstance(other, Usage):
            for role, models in other.parts.items():
                for model, counts in models.items():
                    self._part(role, model).add(counts)

    def count(self, role: str, model: str, counts: Counts) -> None:
        """Add the counts of one role and model."""
        super().add(counts)
        self._part(role, model).add(counts)

    def times(self, factor: int) -> "Usage":
        """Return the usage of `factor` times these calls."""
        result = Usage()
        for role, models in self.parts.items():
            for model, counts in models.items():
                scaled = {name: factor * getattr(counts, name) for name in _COUNTS}
                result.count(role, model, Counts(**scaled))
        return result

    def by_role(self) -> dict[str, Counts]:
        """Return the counts by role."""
        return {role: _total(models.values()) for role, models in self.parts.items()}

    def by_model(self) -> dict[str, Counts]:
        """Return the counts by model."""
        names = dict.fromkeys(model for models in self.parts.values() for model in models)
        return {name: _total(models[name] for models in self.parts.values() if name in models) for name in names}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Usage":
        """Return the usage of which `dataclasses.asdict` made plain values. Other keys are ignored."""
        parts = {
            role: {model: _counts(counts) for model, counts in models.items()}
            for role, models in plain.get("parts", {}).items()
        }
        return cls(**{name: plain[name] for name in _COUNTS if name in plain}, parts=parts)

    def _part(self, role: str, model: str) -> Counts:
        return self.parts.setdefault(role, {}).setdefault(model, Counts())


def _counts(plain: Mapping[str, Any]) -> Counts:
    return Counts(**{name: plain[name] for name in _COUNTS if name in plain})


def _total(counts: Iterable[Counts]) -> Counts:
    total = Counts()
    for one in counts:
        total.add(one)
    return total


def dollars(counts: Counts) -> str:
    """Return the cost in words: a number, "unknown", or "at least" the part that is known."""
    if counts.cost is None and not counts.dollars:
        return "unknown"
    shown = amount(counts.dollars)
    return shown if counts.cost is not None else f"at least {shown}"


def amount(dollars: float) -> str:
    """Return dollars for reading, without their sign: cents, or three digits of less than a dollar."""
    return f"{dollars:,.2f}" if dollars >= 1 else f"{dollars:.3g}"


def summed(total: Mapping[str, Any], more: Mapping[str, Any], *, sign: int = 1) -> dict[str, Any]:
    """Return the sum of two usages as plain values or, with a `sign` of -1, their difference."""
    result = dict(total)
    for key, value in more.items():
        if isinstance(value, Mapping):
            result[key] = summed(result.get(key, {}), value, sign=sign)
        else:
            result[key] = round(result.get(key, 0) + sign * value, DIGITS)
    return result


_MOST_TOKENS = 10**9

SAID_AGAIN = "said_again"
"""The tag of a run that repeats an existing reply, and so is not a model call although it looks like one."""

_open: ContextVar[tuple[Usage, ...]] = ContextVar("collab_agents_usage", default=())


@contextmanager
def track_usage(usage: Usage | None = None) -> Iterator[Usage]:
    """Count the model calls made inside, in this task and in tasks started from it. Trackers can be nested.

    Args:
        usage: The count to add to; by default a new one.

    Example:
        with track_usage() as usage:
            await model.ainvoke("Hello")
        print(usage.calls, usage.output_tokens)
    """
    usage = usage if usage is not None else Usage()
    token = _open.set((*_open.get(), usage))
    try:
        yield usage
    finally:
        _open.reset(token)


def token_count(reported: object) -> int:
    """Return the number of tokens that a server reports, limited to what is possible: 0 to a billion."""
    if not isinstance(reported, int | float) or not reported > 0:
        return 0
    return int(min(reported, _MOST_TOKENS))


_role: ContextVar[str] = ContextVar("collab_agents_role", default="other")


@contextmanager
def spent_by(role: str) -> Iterator[None]:
    """Attribute the calls inside to a role, in this task and in tasks started from it. The innermost role counts."""
    token = _role.set(role)
    try:
        yield
    finally:
        _role.reset(token)


def record_usage(metadata: Mapping[str, Any] | None, run_id: UUID | None = None, *, model: str) -> None:
    """Count one answered call.

    Args:
        metadata: The message's `usage_metadata`, or None if no usage was reported.
        run_id: The call's id, so that `counting_all_models` does not count it again.
        model: The model's name, see `served_name`.
    """
    counter = _counter.get()
    if counter and run_id:
        counter.counted.add(run_id)
    tokens = None if metadata is None else _tokens(metadata)
    dollars = dollars_for(model, tokens)
    one = Counts(1, unreported=int(tokens is None), priced=int(dollars is not None), dollars=dollars or 0.0)
    if tokens:
        one.input_tokens, one.output_tokens, one.cached_tokens = tokens.input, tokens.output, tokens.cached
    for usage in _open.get():
        usage.count(_role.get(), model, one)


def _tokens(metadata: Mapping[str, Any]) -> Tokens:
    read, details = token_count(metadata.get("input_tokens")), metadata.get("input_token_details") or {}
    cached = min(read, token_count(details.get("cache_read")))
    written = min(read - cached, token_count(details.get("cache_creation")))
    return Tokens(read, token_count(metadata.get("output_tokens")), cached, written)


def served_name(provider: object, model: object, address: object = None) -> str:
    """Return the name under which a model is counted: "provider:model", and its address if it has its own."""
    name = ":".join(str(part) for part in (provider, model) if part) or "unknown"
    if not address:
        return name
    parts = urlsplit(str(address))
    return f"{name} at {parts._replace(netloc=parts.netloc.rpartition('@')[2], query='', fragment='').geturl()}"


ADDRESSES = ("base_url", "openai_api_base", "anthropic_api_url", "azure_endpoint", "endpoint_url", "api_base")
"""The fields of LangChain's chat models that hold the server's address."""


class _Counter(BaseCallbackHandler):
    def __init__(self) -> None:
        self.counted: set[UUID] = set()
        self._models: dict[UUID, str] = {}

    def on_chat_model_start(self, serialized: dict[str, Any], messages: Any, *, run_id: UUID, **about: Any) -> None:
        self._note(serialized, run_id, about)

    def on_llm_start(self, serialized: dict[str, Any], prompts: Any, *, run_id: UUID, **about: Any) -> None:
        self._note(serialized, run_id, about)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **about: Any) -> None:
        self._models.pop(run_id, None)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        model = self._models.pop(run_id, "unknown")
        if run_id in self.counted or SAID_AGAIN in (kwargs.get("tags") or ()):
            self.counted.discard(run_id)
            return
        generation = response.generations[0][0] if response.generations and response.generations[0] else None
        record_usage(getattr(getattr(generation, "message", None), "usage_metadata", None), model=model)

    def _note(self, serialized: dict[str, Any] | None, run_id: UUID, about: Mapping[str, Any]) -> None:
        place = about.get("metadata") or {}
        chosen = (serialized or {}).get("kwargs") or {}
        address = next((chosen[name] for name in ADDRESSES if isinstance(chosen.get(name), str)), None)
        self._models[run_id] = served_name(place.get("ls_provider"), place.get("ls_model_name"), address)


_counter: ContextVar[_Counter | None] = ContextVar("collab_agents_counter", default=None)


@contextmanager
def counting_all_models() -> Iterator[list[BaseCallbackHandler]]:
    """Count the calls of every model, also other libraries', with the callback handlers that this yields.

    It yields no handlers if an outer `counting_all_models` already counts.
    """
    if _counter.get():
        yield []
        return
    counter = _Counter()
    token = _counter.set(counter)
    try:
        yield [counter]
    finally:
        _counter.reset(token)


def is_counting_all() -> bool:
    return _counter.get() is not None
