"""Plain conversations with this library, openevals and DeepEval, in turns, in one run.

    python -m benchmarks.plain               # medians of 3, about 6 minutes
    python -m benchmarks.plain --rounds 1

The work: conversations of 4 exchanges without lookahead, all at once, where a model on a loopback server is user and
assistant: 8 calls a conversation. What differs: openevals' user says what the model says, while this library's and
DeepEval's users answer in JSON, which garbage is not. DeepEval's calls of the user send a schema.
"""

import argparse
import os

from benchmarks import peers
from benchmarks.throughput import OURS, Row, measure, median_row, show

COUNT = 120

OURS_PLAIN = [*OURS, "--work", "plain"]

FIGURES = [
    ("wall, s", "wall", ""),
    ("CPU per call, ms", "cpu_ms", ""),
    ("finished", "finished", "all"),
    ("calls", "calls", ""),
    ("peak calls at once", "peak", ""),
    ("peak RSS, MB", "rss_mb", ""),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    os.environ.pop("OPENAI_API_KEY", None)
    sides = {
        "DeepEval 4.3.1": peers.deepeval(),
        "openevals 0.2.2": peers.openevals(),
        "in memory": [*OURS_PLAIN, "--in-memory"],
        "run folder": OURS_PLAIN,
    }

    def medians(*options: str) -> dict[str, Row]:
        played = [{name: measure(side, COUNT, *options) for name, side in sides.items()} for _ in range(rounds)]
        return {name: median_row([one[name] for one in played]) for name in sides}

    title = f"{COUNT} plain conversations"
    latency = medians("--latency", "0.2", "--jitter", "0.5")
    show(f"{title}, 0.2 s latency, jitter 0.5, median of {rounds}", latency, FIGURES)
    trouble = medians("--latency", "0.05", "--jitter", "0.5", "--error-rate", "0.03", "--garbage-rate", "0.03")
    show(f"{title}, 3% HTTP errors, 3% garbage, median of {rounds}", trouble, FIGURES[2:4] + FIGURES[:1])


if __name__ == "__main__":
    main()
