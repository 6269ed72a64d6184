"""Print the configuration of `examples/train_collaborator/generate.yaml` with another lookahead and other tasks.

python -m benchmarks.recipe --split test --tasks 40 --futures 32 --max-exchanges 1 > pool.yaml
"""

import argparse
import sys
from typing import Any

import yaml

from benchmarks.process import ROOT

RECIPE = ROOT / "examples" / "train_collaborator"


def recipe(name: str) -> dict[str, Any]:
    return yaml.safe_load((RECIPE / f"{name}.yaml").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--split", choices=("train", "test"), required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--futures", type=int, required=True)
    parser.add_argument("--max-exchanges", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=4, help="tasks at once")
    given = parser.parse_args()
    settings = recipe("generate")
    settings["lookahead"] |= {"futures": given.futures, "max_exchanges": given.max_exchanges}
    settings["tasks"] |= {"split": given.split, "limit": given.tasks}
    settings["limits"] = {"max_concurrency": given.concurrency}
    yaml.safe_dump(settings, sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main()
