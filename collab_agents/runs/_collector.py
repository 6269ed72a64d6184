"""Fewer runs of Python's garbage collector while many calls are in progress."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fewer_collections() -> Iterator[None]:
    """Inside the block, ignore objects that are alive now, and collect less often.

    Thousands of calls make much short-lived garbage next to a large, lasting heap of imported modules. Walking that
    heap repeatedly took a quarter of all CPU time (benchmarks/throughput.py). Reference counting, which frees nearly
    everything, is not affected. If the application has frozen objects itself, nothing is frozen or unfrozen here: the
    two could not be told apart.
    """
    global _inside, _before, _frozen
    if not _inside:
        _before = gc.get_threshold()
        _frozen = not gc.get_freeze_count()
        if _frozen:
            gc.freeze()
        gc.set_threshold(50_000, 20, 50)
    _inside += 1
    try:
        yield
    finally:
        _inside -= 1
        if not _inside:
            gc.set_threshold(*_before)
            if _frozen:
                gc.unfreeze()


_inside = 0
_frozen = False
_before = gc.get_threshold()
