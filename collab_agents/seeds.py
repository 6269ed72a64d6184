"""Randomness is derived, never drawn: a branch's seed is a hash of where the branch is."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b


def derive_seed(*path: str | int) -> int:
    """The seed of the branch at `path`, in [0, 2**31).

    The same path gives the same seed in any process, order and degree of concurrency. 31 bits are what
    every consumer takes (torch, `random`, the OpenAI API's `seed`).
    """
    digest = blake2b("\x1f".join(map(str, path)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


_branch: ContextVar[tuple[int, Counter[str]] | None] = ContextVar("collab_agents_seed", default=None)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Gives the branch's seed to code inside that is not passed one, such as the models of an app."""
    token = _branch.set((seed, Counter()))
    try:
        yield
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
    calls[what] += 1
    return derive_seed(seed, what, calls[what])
