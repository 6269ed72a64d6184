"""What is relied on in TRL and transformers without being public is there: an upgrade fails here, and says where."""

import ast
import dis
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import trl
from transformers import Trainer
from trl import GRPOTrainer

from collab_agents._internal.importing import attribute_at
from collab_agents.training import OnlineDPOTrainer, PPOTrainer, TreeGRPOTrainer
from collab_agents.training.app_trainer import AppGRPOTrainer
from collab_agents.training.vllm import TrainerVLLM

TRAINING = Path(__file__).parents[2] / "training"
GRPO, ONLINE = "trl:GRPOTrainer", "trl.experimental.online_dpo:OnlineDPOTrainer"
VLLM = "trl.generation.vllm_generation:VLLMGeneration"

# The name, its parameters after `self` (None if it is no function), and the file that relies on it. What is overridden
# has exactly these parameters; what is called may have more, which "..." stands for.
PRIVATE: list[tuple[str, str | None, str]] = [
    (f"{GRPO}._generate", "prompts", "tree_trainer.py"),
    (f"{GRPO}._calculate_rewards", "inputs, prompts, completions, completion_ids_list", "tree_trainer.py"),
    (f"{GRPO}._generate_and_score_completions", "inputs", "tree_trainer.py"),
    (
        f"{GRPO}._get_per_token_logps_and_entropies",
        "model, input_ids, attention_mask, logits_to_keep, batch_size, ...",
        "tree_trainer.py",
    ),
    (f"{GRPO}._name", None, "ppo.py"),
    (f"{VLLM}._iter_named_params", "", "ppo.py"),
    (f"{VLLM}.sync_weights", "", "vllm.py"),
    (f"{ONLINE}._move_model_to_vllm", "", "vllm.py"),
    ("transformers:Trainer._save", "output_dir, state_dict", "ppo.py"),
    ("transformers:Trainer._load_from_checkpoint", "resume_from_checkpoint, model", "ppo.py"),
    ("transformers:Trainer._load_best_model", "", "ppo.py"),
    ("transformers:Trainer._save_checkpoint", "model, trial", "evaluation.py"),
    (
        f"{ONLINE}._forward",
        "model, prompt_ids, prompt_mask, completion_ids, completion_mask, vision_inputs",
        "online_dpo.py",
    ),
    (f"{ONLINE}._generate", "model, prompts, images", "online_dpo.py"),
    ("trl.kernels.chunked_logprob:TOKEN_CHUNK_SIZE", None, "tiles.py"),
    ("trl.trainer.utils:_CHUNKED_LOGPROB_CHUNK_SIZE", None, "tiles.py"),
]

# Attributes that are not documented, and that TRL sets when a trainer is built, or in the method that is named.
ATTRIBUTES: list[tuple[str, str, str]] = [
    *((GRPO, name, "tree_trainer.py") for name in ("eos_token_ids", "ref_model", "reward_funcs", "reward_weights")),
    *((GRPO, name, "tree_trainer.py") for name in ("async_loop", "rollout_func")),
    *((GRPO, "vllm_generation", file) for file in ("ppo.py", "vllm.py")),
    *((one, "_last_loaded_step", "vllm.py") for one in (GRPO, ONLINE)),
    *((f"{VLLM}._init_vllm", name, "vllm.py") for name in ("llm", "_llm_weights_sleeping")),
    (ONLINE, "llm", "vllm.py"),
    *((GRPO, name, "turns.py") for name in ("async_loop", "rollout_func")),
    *((ONLINE, name, "online_dpo.py") for name in ("reward_funcs", "reward_processing_classes", "reward_weights")),
]

# A batch of TRL's GRPO, as far as it is read or written: what the loss reads of it.
KEYS = (
    "prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask", "advantages", "old_per_token_logps",
    "ref_per_token_logps", "sampling_per_token_logps", "importance_sampling_ratio", "num_items_in_batch",
)  # fmt: skip


def gone(what: str, file: str, now: str) -> str:
    return (
        f"{what}: TRL {trl.__version__} {now}. training/{file} relies on it: see 'When TRL moves on' in CONTRIBUTING.md"
    )


@pytest.mark.parametrize(("where", "parameters", "file"), PRIVATE, ids=[where for where, _, _ in PRIVATE])
def test_a_private_name_of_trl_is_there_with_the_parameters_it_had(
    where: str, parameters: str | None, file: str
) -> None:
    module, _, names = where.partition(":")
    try:
        found = attribute_at(f"{module}:{names.partition('.')[0]}", "trl")
        for name in names.split(".")[1:]:
            found = getattr(found, name)
    except Exception as error:
        pytest.fail(gone(where, file, f"has no such name ({error})"))
    if parameters is None:
        return
    now = list(inspect.signature(found).parameters)[1:]
    expected = [one for one in parameters.split(", ") if one]
    if expected[-1:] == ["..."]:
        expected.pop()
        now = now[: len(expected)]
    assert now == expected, gone(where, file, f"takes ({', '.join(now)}) instead of ({parameters})")


@pytest.mark.parametrize(("where", "name", "file"), ATTRIBUTES, ids=[".".join(one) for one in ATTRIBUTES])
def test_an_attribute_that_is_not_documented_is_set_when_a_trainer_is_built(where: str, name: str, file: str) -> None:
    module, _, names = where.partition(":")
    class_name, _, method = names.partition(".")
    built = inspect.unwrap(getattr(attribute_at(f"{module}:{class_name}", "trl"), method or "__init__")).__code__
    assert name in built.co_names, gone(f"{where}.{name}", file, f"no longer sets it in {method or '__init__'}")


def test_the_loss_reads_the_keys_of_a_batch_that_are_read_and_written_here() -> None:
    read = set(constants(inspect.unwrap(GRPOTrainer._compute_loss).__code__))
    for key in KEYS:
        assert key in read, gone(f"the key {key!r} of a batch", "tree_trainer.py", "does not read it in the loss")


def test_nothing_else_is_private_in_what_the_trainers_use_of_trl() -> None:
    listed = {re.split(r"[:.]", where)[-1] for where, _, _ in PRIVATE} | {name for _, name, _ in ATTRIBUTES}
    modules = {where.partition(":")[0] for where, _, _ in PRIVATE} | {"trl"}
    for file in TRAINING.glob("*.py"):
        for imported in imports(ast.parse(file.read_text(encoding="utf-8"))):
            assert not imported.startswith("trl") or imported in modules, f"{file.name} imports {imported}"
    for trainer in (TreeGRPOTrainer, AppGRPOTrainer, PPOTrainer, OnlineDPOTrainer):
        base = next(one for one in trainer.__mro__ if not one.__module__.startswith("collab_agents"))
        theirs = {*dir(base), *inspect.unwrap(base.__init__).__code__.co_names, *dir(Trainer)}
        used = {*vars(trainer), *(name for one in vars(trainer).values() for name in names_in(one))}
        private = {name for name in used & theirs if name.startswith("_") and not name.startswith("__")}
        assert private <= listed, f"{trainer.__name__} uses {sorted(private - listed)}: list it in PRIVATE"
    used = {name for one in vars(TrainerVLLM).values() for name in names_in(one)}
    own = {name for name in used if name in vars(TrainerVLLM) or name in names_set_in(TrainerVLLM.__init__)}
    private = {name for name in used - own if name.startswith("_") and not name.startswith("__")}
    assert private <= listed, f"TrainerVLLM uses {sorted(private - listed)}: list it in ATTRIBUTES"


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from codes(one)


def constants(code: CodeType) -> Iterator[object]:
    for one in codes(code):
        yield from one.co_consts


def names_in(value: Any) -> Iterator[str]:
    function = inspect.unwrap(value) if inspect.isfunction(value) else None
    for one in codes(function.__code__) if function else ():
        yield from one.co_names


def names_set_in(function: Any) -> set[str]:
    return {one.argval for one in dis.get_instructions(function) if one.opname == "STORE_ATTR"}
