"""The recipes for GPUs, run by the same files on tiny models of the same families, with a stand-in for vLLM."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.process import ROOT
from tests.support.scripts import script
from tests.support.tiny import tiny_chat_model

RECIPES = ROOT / "examples" / "train_collaborator" / "gpu"

STEPS = """
import sys
from collab_agents.cli.app import run_command

def run(*command):
    if run_command(list(command)):
        sys.exit(f"{command} failed")

name = sys.argv[1]
run("generate", "--config", "generate.yaml", "--out", f"runs/{name}/trajectories")
for method in ("sft", "dpo"):
    run("train", method, "--config", f"{method}.yaml", "--out", f"runs/{name}/{method}")
    run("merge", "--adapter", f"runs/{name}/{method}", "--out", f"runs/{name}/{method}-model")
run("train", "grpo", "--config", "grpo.yaml", "--out", f"runs/{name}/grpo")
"""

SMALL = {"max_steps": 1, "bf16": False, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}


@pytest.mark.parametrize(("recipe", "kind"), [("qwen3-4b", "qwen3"), ("llama-3.1-8b", "llama")])
def test_a_recipe_goes_from_trajectories_to_a_model_trained_on_trees(recipe: str, kind: str, tmp_path: Path) -> None:
    model = tiny_chat_model(tmp_path / "model", kind, max_position_embeddings=8192, tie_word_embeddings=kind == "qwen3")
    for file in (RECIPES / recipe).glob("*.yaml"):
        config = yaml.safe_load(file.read_text())
        (tmp_path / file.name).write_text(yaml.safe_dump(smaller(config, model)))
    script(tmp_path, STEPS, recipe)
    log = json.loads((tmp_path / "runs" / recipe / "grpo" / "training_log.json").read_text())
    assert [entry["tree/turns"] > 0 for entry in log if "loss" in entry] == [True]
    assert (tmp_path / "runs" / recipe / "grpo" / "adapter_model.safetensors").exists()


def smaller(config: dict[str, Any], model: str) -> dict[str, Any]:
    """Return a recipe's file for a tiny model that says a few words to a few users."""
    if "assistant" in config:
        options = {"engine": "transformers", "device": "cpu"}
        config["assistant"]["model"] |= {"name": f"local:{model}", "max_tokens": 12, "options": options}
        config["lookahead"] |= {"window": 1, "max_exchanges": 1}
        config["tasks"]["limit"] = 4
        return config
    if "/" in config["model"]["name"] and not config["model"]["name"].startswith("runs/"):
        config["model"]["name"] = model
    config["trainer"] |= SMALL
    if "reward" in config:
        config["trainer"] |= {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 8}
        config["trainer"] |= {"max_completion_length": 12}
        config["data"]["tasks"]["limit"] = 4
    else:
        for bound in ("lower_bounds", "minimum_gap"):
            config["data"].pop(bound, None)
    return config
