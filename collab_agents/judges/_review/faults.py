from dataclasses import dataclass
from typing import Literal

FaultKind = Literal["tells_at_once", "contradicts", "speaks_as_assistant", "ends_early", "goes_on", "repeats"]
"""What a simulated user can do wrong:

- `tells_at_once`: it tells its goal unasked, against its disclosure.
- `contradicts`: it contradicts the task's facts or what it said before, beyond the slips of its persona.
- `speaks_as_assistant`: it offers help, asks for its own facts, or writes the text that it wants.
- `ends_early`: it ends the conversation before its goal is met or what it asked for is done, with patience left.
- `goes_on`: it goes on after its goal is met.
- `repeats`: it says again what it said before, although nothing called for it.
"""


@dataclass(frozen=True)
class Fault:
    """A fault of the simulated user."""

    kind: FaultKind
    message: int
    """The number of the user's message, from 1. For an end without a word, that of its last message."""
    reason: str
