"""Derived seeds: a branch's seed is a hash of the branch's path."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any

from collab_agents._internal.place import task_around


def derive_seed(*path: str | int) -> int:
    """Return the seed of the branch at `path`, in [0, 2**31).

    The same path gives the same seed in any process, order and degree of concurrency. All consumers (torch, `random`,
    the OpenAI API's `seed`) accept 31 bits.
    """
    digest = blake2b("\x1f".join(map(str, path)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


class Calls:
    """Counts the calls with each content in a branch, by LangGraph task.

    A task that runs again from its beginning gets the same seeds again.
    """

    def __init__(self, counted: Iterable[Sequence[Any]] = ()) -> None:
        self._counts: dict[str, Counter[str]] = {}
        for content, place, number in counted:
            self._counts.setdefault(content, Counter())[place] = number

    def number(self, content: str) -> int:
        """Count a call and return its number, from 1, among those with this content."""
        counts = self._counts.setdefault(_digest(content), Counter())
        counts[task_around()] += 1
        return counts.total()

    def forget(self, runs_again: Callable[[str], bool]) -> None:
        """Forget the calls of the tasks that run again, given by their namespace."""
        for counts in self._counts.values():
            for place in [place for place in counts if runs_again(place)]:
                del counts[place]

    def dump(self) -> list[list[str | int]]:
        """Return the counts as JSON values for `__init__`."""
        return [[content, *one] for content, counts in self._counts.items() for one in counts.items()]


def _digest(content: str) -> str:
    return blake2b(content.encode(), digest_size=12).hexdigest()


_branch: ContextVar[tuple[int, Calls] | None] = ContextVar("collab_agents_seed", default=None)


@contextmanager
def seeded(seed: int, calls: Calls | None = None) -> Iterator[Calls]:
    """Give the branch's seed to code inside that is not passed one, such as the models of an app."""
    calls = calls or Calls()
    token = _branch.set((seed, calls))
    try:
        yield calls
    finally:
        _branch.reset(token)


def branch_seed() -> int | None:
    """Return the surrounding branch's seed, or None."""
    branch = _branch.get()
    return branch and branch[0]


def seed_for(content: Callable[[], str]) -> int | None:
    """Return the seed, in the surrounding branch, of a call with this content, or None without a branch.

    Another call with the same content gets another seed.
    """
    branch = _branch.get()
    if branch is None:
        return None
    seed, calls = branch
    what = content()
    return derive_seed(seed, what, calls.number(what))
