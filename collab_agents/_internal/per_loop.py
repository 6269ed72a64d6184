import asyncio
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One value per event loop, as asyncio and aiohttp objects need when `asyncio.run` is called twice."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[asyncio.AbstractEventLoop, T] = {}
        self._making = Lock()

    def get(self) -> T:
        loop = asyncio.get_running_loop()
        if loop not in self._values:
            with self._making:  # Each sync call has its own loop and thread.
                self._values = {known: value for known, value in self._values.items() if not known.is_closed()}
                self._values[loop] = self._make()
        return self._values[loop]
