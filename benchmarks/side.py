"""What every side of a benchmark shares: its goal, its arguments, its clock, and what it prints as JSON.

Only the standard library, since each peer runs in a virtual environment of its own.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable

GOAL = (
    "You want an invitation to a garden party for your sister's fortieth birthday. It is on Saturday 14 June at 4 pm "
    "in Elm Park, everybody should come in white and bring a dessert, and the text has to stay under 120 words."
)

EXCHANGES = 4
"""Of a plain conversation, of one user's and one assistant's message each."""


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--tasks", type=int, required=True)
    return parser


def report(play: Callable[[], int]) -> None:
    """Play the tasks, and print how many were finished and what that cost."""
    cpu, wall = time.process_time(), time.monotonic()
    finished = play()
    usage = {
        "finished": finished,
        "wall": time.monotonic() - wall,
        "cpu": time.process_time() - cpu,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(usage))
