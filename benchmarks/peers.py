"""The commands of the peers' sides. Each has a virtual environment of its own under .bench/, made on first use."""

import subprocess
import venv

from benchmarks.process import ROOT


def published() -> list[str]:
    """The published package without what its benchmarked part does not import (vllm, wandb, bitsandbytes, ...)."""
    needs = ["transformers", "litellm", "tqdm", "numpy<3", "tenacity", "sacrebleu", "setuptools"]
    return _side("collabllm", "benchmarks.published", ["torch==2.13.0"], needs, ["--no-deps", "collabllm==0.0.8"])


def openevals() -> list[str]:
    return _side("openevals", "benchmarks.openevals_side", ["openevals==0.2.2", "langchain-openai==1.7.4"])


def deepeval() -> list[str]:
    return _side("deepeval", "benchmarks.deepeval_side", ["deepeval==4.3.1"])


def _side(name: str, module: str, *installed: list[str]) -> list[str]:
    """Return the command of a peer's module, after installing the groups of packages in turn."""
    place = ROOT / ".bench" / name
    if not (place / "ready").exists():
        venv.create(place, with_pip=True, clear=True)
        for packages in installed:
            pip = [str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *packages], check=True)
        (place / "ready").touch()
    return [str(place / "bin" / "python"), "-m", module]
