"""Randomness is derived, never drawn: a branch's seed is a hash of where the branch is."""

from hashlib import blake2b


def derive_seed(*path: str | int) -> int:
    """The seed of the branch at `path`, in [0, 2**31).

    The same path gives the same seed in any process, order and degree of concurrency. 31 bits are what
    every consumer takes (torch, `random`, the OpenAI API's `seed`).
    """
    digest = blake2b("\x1f".join(map(str, path)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
