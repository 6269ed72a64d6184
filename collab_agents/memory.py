"""What participants remember."""

from copy import deepcopy
from typing import Any

Memory = dict[str, Any]
"""What a participant remembers between its turns: JSON values under keys of its own.

A user finds three more keys in it, put there by the graph for each call and not to be changed: `task` (the `Task`,
with the goal), `persona` (a `Persona` or None) and `seed` (an int, this branch's own). An assistant finds `seed` and
`proactive` (whether to use its proactive prompt).
"""


def own_copy(value: Any) -> Any:
    """A deep copy, quick for the JSON values that nearly everything is."""
    if isinstance(value, dict):
        return {key: own_copy(one) for key, one in value.items()}
    if isinstance(value, list):
        return [own_copy(one) for one in value]
    return value if isinstance(value, str | int | float | None) else deepcopy(value)
