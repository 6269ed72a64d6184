"""Python's garbage collector, told what it is up against."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fewer_collections() -> Iterator[None]:
    """While inside, the collector leaves alone what is alive now, and looks less often at what comes.

    Thousands of calls make much short-lived garbage next to a large, lasting heap of imported modules, and walking
    that heap again and again is a quarter of all CPU time (benchmarks/throughput.py). What reference counts free,
    which is nearly everything, is freed as ever.
    """
    global _inside, _before
    if not _inside:
        _before = gc.get_threshold()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
    _inside += 1
    try:
        yield
    finally:
        _inside -= 1
        if not _inside:
            gc.set_threshold(*_before)
            gc.unfreeze()


_inside = 0
_before = gc.get_threshold()
