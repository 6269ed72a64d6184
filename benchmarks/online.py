"""Seconds of a step of GRPO on a CPU, with replies and futures by torch and by OpenVINO.

    python -m benchmarks.online              # SmolLM2-135M, about 6 minutes on two cores
    python -m benchmarks.online --steps 4 --model runs/train-demo/round-1/sft-model

Each trains in a process of its own, with the settings of `examples/train_collaborator/online/grpo-cpu.yaml` on the
first messages of its tasks. The first step is left out. What is not sampling or futures is the same torch in both.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.recipe import recipe
from benchmarks.steps import Steps


def steps(folder: Path, model: str, count: int, *, openvino: bool) -> list[dict[str, float]]:
    """Train, and return what was logged of each step but the first."""
    settings = recipe("online/grpo-cpu")
    settings["model"]["name"] = model
    settings["data"] = {"tasks": {"source": "offline", "split": "train"}}
    settings["trainer"] |= {
        "max_steps": count + 1,
        "logging_steps": 1,
        "use_openvino": openvino,
        "save_strategy": "no",
        "report_to": "none",
    }
    file = folder / f"{openvino}.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    out = folder / str(openvino)
    commands = [["train", "grpo", "--config", str(file), "--out", str(out)]]
    if not Steps(folder, parallel=1, seconds=1e9).run(f"log-{openvino}", commands):
        raise SystemExit((folder / f"log-{openvino}.log").read_text(encoding="utf-8"))
    logged = json.loads((out / "training_log.json").read_text(encoding="utf-8"))
    return [one for one in logged if "step_time" in one][1:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--steps", type=int, default=6)
    given = parser.parse_args()
    table = Table("replies and futures by", "seconds a step", "at least", "at most", "calls a step", "calls a second")
    medians = []
    with tempfile.TemporaryDirectory() as folder:
        for openvino in (False, True):
            logged = steps(Path(folder), given.model, given.steps, openvino=openvino)
            times = [one["step_time"] for one in logged]
            calls = sum(one["tree/calls"] for one in logged)
            medians.append(median(times))
            table.add_row(
                "OpenVINO" if openvino else "torch",
                f"{medians[-1]:.1f}",
                f"{min(times):.1f}",
                f"{max(times):.1f}",
                f"{calls / len(times):.1f}",
                f"{calls / sum(times):.2f}",
            )
    console = Console()
    console.print(table)
    console.print(f"torch / OpenVINO: {medians[0] / medians[1]:.1f}")


if __name__ == "__main__":
    main()
