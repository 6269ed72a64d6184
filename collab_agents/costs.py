"""What model calls cost, in dollars, and what a run may spend.

Prices come from `genai-prices`, whose table ships with the package: nothing is downloaded. A model in this process
costs nothing. The price of any other model is unknown unless it is given.
"""

import ipaddress
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

DIGITS = 10
"""Decimal places that dollars are rounded to. Rounded sums do not depend on the order of their terms."""

_PER_MILLION = 1e-6
_SECONDS_KEPT = 900
"""Seconds for which a listed model's rates are kept."""


class Price(BaseModel):
    """The price of a model, in dollars per million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)
    cached_input: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Of input tokens that the provider reads from its cache; by default `input`."""


class SpendingLimits(BaseModel):
    """What a whole run may spend, earlier attempts at it included.

    Once a limit is reached, no task and no turn begins. Turns that are under way are finished, and can exceed it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_calls: PositiveInt | None = None
    """Answered model calls."""
    max_cost: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Dollars. It needs the price of every model."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of one call. `cached` and `written` are those of `input` that were read from or written to a cache."""

    input: int = 0
    output: int = 0
    cached: int = 0
    written: int = 0


Pricing = Callable[[Tokens], float | None]

_given: ContextVar[Mapping[str, Price] | None] = ContextVar("collab_agents_prices", default=None)


@contextmanager
def given_prices(prices: Mapping[str, Price]) -> Iterator[None]:
    """Use these prices for the calls inside, before those of `genai-prices`.

    Args:
        prices: By the model's name, such as "openai:my-model", or by its name and address as a usage shows them.

    Example:
        with given_prices({"openai:my-model": Price(input=0.5, output=1.5)}), track_usage() as usage:
            await model.ainvoke("Hello")
        print(usage.cost)
    """
    token = _given.set({**(_given.get() or {}), **prices})
    try:
        yield
    finally:
        _given.reset(token)


def dollars_for(model: str, tokens: Tokens | None) -> float | None:
    """Return what a call cost, or None if that is unknown.

    Args:
        model: The model's name, "provider:model" or "provider:model at address".
        tokens: None if the provider reported none.
    """
    given = _given.get() or {}
    price = given.get(model) or given.get(_parts(model)[0])
    if price is not None:
        return None if tokens is None else _at(price, tokens)
    pricing = _listed(model)
    if pricing is _free:
        return 0.0
    return None if pricing is None or tokens is None else pricing(tokens)


def has_price(model: str) -> bool:
    """Whether the price of the model is known."""
    return dollars_for(model, Tokens()) is not None


def _at(price: Price, tokens: Tokens) -> float:
    cached = price.input if price.cached_input is None else price.cached_input
    fresh = tokens.input - tokens.cached
    return round(_PER_MILLION * (fresh * price.input + tokens.cached * cached + tokens.output * price.output), DIGITS)


def _free(tokens: Tokens) -> float:
    return 0.0


def _parts(model: str) -> tuple[str, str]:
    """Return the name and the address, which may be empty."""
    name, _, address = model.partition(" at ")
    return name, address


@cache
def _listed(model: str) -> Pricing | None:
    name, address = _parts(model)
    provider, _, reference = name.partition(":")
    if provider == "local":
        return _free
    if not reference or (address and _is_private(address)):
        return None

    def pricing(tokens: Tokens) -> float | None:
        rates = _rates(name, address, int(time.time() // _SECONDS_KEPT))
        return _calculated(name, address, tokens) if rates is None else round(rates.total(tokens), DIGITS)

    return None if _calculated(name, address, Tokens()) is None else pricing


@dataclass(frozen=True)
class _Rates:
    """Dollars for a call, and for each of its tokens."""

    call: float
    fresh: float
    cached: float
    written: float
    output: float

    def total(self, tokens: Tokens) -> float:
        fresh = tokens.input - tokens.cached - tokens.written
        read = fresh * self.fresh + tokens.cached * self.cached + tokens.written * self.written
        return self.call + read + tokens.output * self.output


@lru_cache(maxsize=256)
def _rates(name: str, address: str, now: int) -> _Rates | None:
    """Return a listed model's rates, or None if they depend on the prompt's length.

    Rates take a fiftieth of a calculation's time. `now` changes when they are to be read again, since some depend on
    the time of day.
    """
    many = 1_000_000
    probes = (
        Tokens(),
        Tokens(input=many),
        Tokens(input=many, cached=many),
        Tokens(input=many, written=many),
        Tokens(output=many),
        Tokens(input=1000),
        Tokens(input=many, output=many),
    )
    prices = [_calculated(name, address, probe) for probe in probes]
    if None in prices:
        return None
    call, *rest = (price or 0.0 for price in prices)
    rates = _Rates(call, *((price - call) / many for price in rest[:4]))
    linear = all(
        math.isclose(rates.total(probe), price, abs_tol=1e-9) for probe, price in zip(probes[5:], rest[4:], strict=True)
    )
    return rates if linear else None


def _calculated(name: str, address: str, tokens: Tokens) -> float | None:
    """Return the price that genai-prices calculates, or None if the model is not listed."""
    from genai_prices import Usage, calc_price  # It loads a large table.

    provider, _, reference = name.partition(":")
    parts = {"cache_read_tokens": tokens.cached, "cache_write_tokens": tokens.written}
    reported = {part: count for part, count in parts.items() if count}
    usage = Usage(input_tokens=tokens.input, output_tokens=tokens.output, **reported)
    try:
        if address:
            price = calc_price(usage, reference, provider_api_url=address)
        else:
            price = calc_price(usage, reference, provider_id=provider)
    except (LookupError, ValueError):  # Not listed, or counts that contradict each other.
        return None
    return round(float(price.total_price), DIGITS)


def _is_private(address: str) -> bool:
    """Whether it is your own server, by its host: an address of a local network, or a name without a dot."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host
