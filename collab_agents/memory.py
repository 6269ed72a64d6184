"""What participants remember."""

from typing import Any

Memory = dict[str, Any]
"""What a participant remembers between its turns: JSON values under keys of its own.

A user finds three more keys in it, put there by the graph for each call and not to be changed: `task` (the `Task`,
with the goal), `persona` (a `Persona` or None) and `seed` (an int, this branch's own). An assistant finds `seed` and
`proactive` (whether to use its proactive prompt).
"""
