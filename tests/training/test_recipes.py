"""The recipes for GPUs, run by the same files on tiny models of the same families, with a stand-in for vLLM."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file

from benchmarks.process import ROOT
from tests.support.scripts import script
from tests.support.tiny import tiny_chat_model

RECIPES = ROOT / "examples" / "train_collaborator" / "gpu"

STEPS = """
import os, sys
from collab_agents.cli.app import run_command

name, sharded = sys.argv[1], "RANK" in os.environ

def run(*command):
    if run_command(list(command)):
        sys.exit(f"{command} failed")

def alone(*command):
    if not sharded or torch.distributed.get_rank() == 0:
        run(*command)
    if sharded:
        torch.distributed.barrier()

if sharded:
    import torch.distributed
    import tests.support.sharded
    torch.distributed.init_process_group("gloo")

alone("generate", "--config", "generate.yaml", "--out", f"runs/{name}/trajectories")
for method in ("sft", "dpo"):
    run("train", method, "--config", f"{method}.yaml", "--out", f"runs/{name}/{method}")
    alone("merge", "--adapter", f"runs/{name}/{method}", "--out", f"runs/{name}/{method}-model")
run("train", "grpo", "--config", "grpo.yaml", "--out", f"runs/{name}/grpo")
assert not sharded or tests.support.sharded.AcceleratorState().is_fsdp2
"""

SMALL = {"max_steps": 2, "bf16": False, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}


def test_a_recipe_goes_from_trajectories_to_a_model_trained_on_trees(tmp_path: Path) -> None:
    check("llama-3.1-8b", "llama", tmp_path)


def test_a_recipe_goes_as_far_sharded_over_processes(tmp_path: Path) -> None:
    """By accelerate's file for eight GPUs, in two processes on processors."""
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(RECIPES / "fsdp2.yaml")]
    launch += ["--num_processes", "2", "--main_process_port", "0", "--mixed_precision", "no"]
    check("qwen3-4b", "qwen3", tmp_path, launch)


def check(recipe: str, kind: str, folder: Path, launcher: Sequence[str] = ()) -> None:
    model = tiny_chat_model(folder / "model", kind, max_position_embeddings=8192, tie_word_embeddings=kind == "qwen3")
    for file in (RECIPES / recipe).glob("*.yaml"):
        config = yaml.safe_load(file.read_text())
        (folder / file.name).write_text(yaml.safe_dump(smaller(config, model)))
    script(folder, STEPS, recipe, launcher=launcher)
    for method, measure in (("sft", "loss"), ("dpo", "rewards/margins"), ("grpo", "tree/turns")):
        out = folder / "runs" / recipe / method
        log = json.loads((out / "training_log.json").read_text())
        assert [math.isfinite(entry[measure]) for entry in log if "loss" in entry] == [True, True]
        weights = load_file(out / "adapter_model.safetensors")
        assert all(one.isfinite().all() for one in weights.values())
        assert any(one.abs().max() > 0 for name, one in weights.items() if "lora_B" in name)


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
        config["trainer"] |= {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 4}
        config["trainer"] |= {"num_generations": 4, "max_completion_length": 12}
        config["data"]["tasks"]["limit"] = 4
    else:
        for bound in ("lower_bounds", "minimum_gap"):
            config["data"].pop(bound, None)
    return config
