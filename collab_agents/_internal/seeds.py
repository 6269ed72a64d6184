"""Randomness is derived, never drawn: a branch's seed is a hash of where the branch is."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any

from collab_agents._internal.place import task_around


def derive_seed(*path: str | int) -> int:
    """The seed of the branch at `path`, in [0, 2**31).

    The same path gives the same seed in any process, order and degree of concurrency. 31 bits are what
    every consumer takes (torch, `random`, the OpenAI API's `seed`).
    """
    digest = blake2b("\x1f".join(map(str, path)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


class Calls:
    """How often each content has been asked for in a branch, and in which LangGraph tasks.

    A task that runs again from its beginning gets the same seeds again.
    """

    def __init__(self, counted: Iterable[Sequence[Any]] = ()) -> None:
        self._counts: dict[str, Counter[str]] = {}
        for content, place, number in counted:
            self._counts.setdefault(content, Counter())[place] = number

    def number(self, content: str) -> int:
        """Which call with this content it is, from 1."""
        counts = self._counts.setdefault(_digest(content), Counter())
        counts[task_around()] += 1
        return counts.total()

    def forget(self, runs_again: Callable[[str], bool]) -> None:
        """Of the tasks that run again, by their namespace."""
        for counts in self._counts.values():
            for place in [place for place in counts if runs_again(place)]:
                del counts[place]

    def dump(self) -> list[list[Any]]:
        """As JSON values, from which they are made again."""
        return [[content, *one] for content, counts in self._counts.items() for one in counts.items()]


def _digest(content: str) -> str:
    return blake2b(content.encode(), digest_size=12).hexdigest()


_branch: ContextVar[tuple[int, Calls] | None] = ContextVar("collab_agents_seed", default=None)


@contextmanager
def seeded(seed: int, calls: Calls | None = None) -> Iterator[Calls]:
    """Gives the branch's seed to code inside that is not passed one, such as the models of an app."""
    calls = calls or Calls()
    token = _branch.set((seed, calls))
    try:
        yield calls
    finally:
        _branch.reset(token)


def branch_seed() -> int | None:
    """The seed of the branch around, None where there is none."""
    branch = _branch.get()
    return branch and branch[0]


def seed_for(content: Callable[[], str]) -> int | None:
    """The seed, in the branch around, of a call with this content; None where no branch is around.

    The same content again is another call, and gets another seed.
    """
    branch = _branch.get()
    if branch is None:
        return None
    seed, calls = branch
    what = content()
    return derive_seed(seed, what, calls.number(what))
