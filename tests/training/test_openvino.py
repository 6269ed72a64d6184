"""With `use_openvino`, OpenVINO samples and plays the futures, with the weights of the model in training."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationMixin, PreTrainedModel

from collab_agents import TaskSet, read_trajectories
from collab_agents._internal.sync import run_sync
from collab_agents.errors import ConfigError
from collab_agents.judges import token_cost
from collab_agents.models.engines.base import Job
from collab_agents.models.engines.conversion import largest_difference
from collab_agents.models.engines.converted import openvino_folder
from collab_agents.rewards import MultiturnReward
from collab_agents.tasks import Task
from collab_agents.training import (
    HeldOutEvaluation,
    PolicyConfig,
    TreeGRPOConfig,
    TreeGRPOTrainer,
    train_grpo,
    train_ppo,
)
from collab_agents.training.weights_file import WeightsFile
from collab_agents.users import ScriptedUser
from tests.support import trees
from tests.support.tiny import tiny_model


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny model, no two of whose weights have the same values."""
    return tiny_model(tmp_path_factory.mktemp("uneven"), uneven=True)


@pytest.fixture
def only_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model generates by torch."""

    def generate(*_: object, **__: object) -> None:
        raise AssertionError("torch generates")

    monkeypatch.setattr(GenerationMixin, "generate", generate)


@pytest.mark.parametrize("lora", [True, False])
def test_the_file_gets_the_weights_as_they_are_with_their_adapter(uneven: str, tmp_path: Path, lora: bool) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(uneven, dtype=torch.float32)
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    converted, folder = openvino_folder(uneven, "model", reproducible=False), tmp_path / "copy"
    shutil.copytree(converted, folder)
    file = WeightsFile(folder, model)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.requires_grad:
                weights += 0.1 * torch.randn_like(weights)
    file.write()
    trained: PreTrainedModel = model.merge_and_unload() if lora else model
    assert largest_difference(trained, converted) > 0.1
    assert largest_difference(trained, folder) < 1e-3


@pytest.mark.parametrize("method", [train_grpo, train_ppo])
def test_trees_that_it_played_are_learnt_as_in_plain_torch(
    uneven: str, tmp_path: Path, only_openvino: None, method: Any
) -> None:
    reward = trees.Watched()
    ppo = method is train_ppo
    options: dict[str, Any] = {"beta": 0.2, "num_iterations": 2, "max_steps": 4, "use_openvino": True}
    if ppo:
        options |= {"gamma": trees.GAMMA, "lam": trees.LAM, "vf_coef": trees.VF}
    logs = trees.train(uneven, tmp_path / "out", reward, method, learning_rate=0.1, **options)
    direct = trees.directly(uneven, reward, rate=0.1, beta=0.2, iterations=2, ppo=ppo)
    moved, apart = trees.compare_models(uneven, direct, tmp_path / "out")
    assert moved > 1e-2
    assert apart < 1e-5
    assert [{one.policy_step for one in scored} for _, _, scored in reward.seen] == [{0}, {2}]
    assert sum(len(calls) for _, _, scored in reward.seen for one in scored for calls in one.calls) > 16
    assert logs["policy/staleness"] == 0


def test_after_every_step_it_continues_as_the_model_in_training_does(uneven: str, tmp_path: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(uneven)
    before: Any = AutoModelForCausalLM.from_pretrained(uneven, dtype=torch.float32)
    gaps: list[tuple[float, float]] = []

    def gap(model: Any, prompt: list[int], ids: list[int]) -> float:
        """How much less probable a token is than the most probable one, at most, as a logarithm."""
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].float()
        return float((logits.max(-1).values - logits[torch.arange(len(ids)), ids]).max())

    def compare(completions: list[Any], **_: object) -> list[float]:
        prompt = trainer.player.engine.encode([{"role": "user", "content": "say"}])
        job = Job(prompt, max_tokens=12, temperature=0.0, top_p=1.0, seed=0)
        ids = run_sync(trainer.player.engine.complete(job)).ids
        gaps.append((gap(trainer.model, prompt, ids), gap(before, prompt, ids)))
        return [float(len(str(one))) for one in completions]

    options = {**trees.QUICK, "learning_rate": 2.0, "max_steps": 3, "use_openvino": True, "use_cpu": True}
    trainer: Any = TreeGRPOTrainer(
        uneven,
        compare,
        TreeGRPOConfig(str(tmp_path), **options),
        trees.prompts()["train"],
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    assert len(gaps) == 3
    assert max(now for now, _ in gaps) < 0.1  # OpenVINO computes in bfloat16.
    assert min(then for _, then in gaps[1:]) > 0.5


def test_online_dpo_samples_and_plays_by_it(uneven: str, tmp_path: Path, only_openvino: None) -> None:
    reward = trees.Watched()
    trees.pairs(uneven, tmp_path / "out", reward, max_steps=2, learning_rate=0.1, use_openvino=True)
    assert [{one.policy_step for one in scored} for _, _, scored in reward.seen] == [{0}, {1}]
    for completions, _, scored in reward.seen:
        assert len(completions) == len(scored) == 4
        first, second = scored[:2], scored[2:]
        assert [one.prompt for one in first] == [one.prompt for one in second]
        assert len({tuple(ids) for ids in completions}) > 2
    start, end = (
        AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32).state_dict()
        for one in (uneven, str(tmp_path / "out"))
    )
    assert max((start[name] - end[name]).abs().max().item() for name in start) > 1e-3


def test_held_out_conversations_are_played_by_it_with_the_weights_of_their_step(
    uneven: str, tmp_path: Path, only_openvino: None
) -> None:
    tasks = [Task(id=f"held-out-{number}", goal="You want an e.") for number in range(4)]
    judges = MultiturnReward({"token_cost": token_cost(rate=0.01)})
    letters = TaskSet("letters", tasks, ScriptedUser(["say", "go on"]), judges, max_exchanges=2)
    sampling = {"max_tokens": 8, "temperature": 0.0}
    evaluation = HeldOutEvaluation([letters], every=2, load_best=False, sampling=sampling)
    options = {**trees.QUICK, "learning_rate": 2.0, "max_steps": 2, "use_openvino": True}
    policy = PolicyConfig(name=uneven, dtype="float32", lora=None)
    train_grpo(policy, trees.prompts(), trees.Watched(), tmp_path / "out", trainer=options, evaluation=evaluation)
    before, after = (
        [one.messages for one in read_trajectories(tmp_path / f"out/evaluations/step-{step}/letters/policy/seed-0")]
        for step in (0, 2)
    )
    assert len(before) == len(after) == 4
    assert before[0] != after[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_k": 5}, "top_k must be 0 with use_openvino, got 5"),
        ({"repetition_penalty": 1.2}, "repetition_penalty must be 1.0 with use_openvino, got 1.2"),
        ({"use_vllm": True}, "use_vllm must be False with use_openvino, got True"),
        ({"openvino_cache_gb": 0}, "openvino_cache_gb must be at least 1, got 0"),
    ],
)
def test_options_that_it_would_not_keep_to_are_refused(
    tiny: str, tmp_path: Path, options: dict[str, object], said: str
) -> None:
    for train in (trees.train, trees.pairs):
        with pytest.raises(ConfigError, match=said):
            train(tiny, tmp_path / "out", trees.Watched(), use_openvino=True, **options)


def test_weights_that_cannot_be_told_apart_are_refused(uneven: str, tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(uneven)
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight.copy_(model.model.layers[0].input_layernorm.weight)
    model.save_pretrained(tmp_path / "equal")
    AutoTokenizer.from_pretrained(uneven).save_pretrained(tmp_path / "equal")
    with pytest.raises(ConfigError, match=r"0\.input_layernorm.* and .*1\.input_layernorm.* have the same values"):
        trees.train(str(tmp_path / "equal"), tmp_path / "out", trees.Watched(), use_openvino=True)


def test_an_adapter_that_is_more_than_a_sum_is_refused(uneven: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {**trees.QUICK, "max_steps": 1, "use_openvino": True, "use_cpu": True}
    with pytest.raises(ConfigError, match="use_openvino takes plain LoRA"):
        TreeGRPOTrainer(
            uneven,
            trees.Watched(),
            TreeGRPOConfig(str(tmp_path), **options),
            trees.prompts()["train"],
            processing_class=AutoTokenizer.from_pretrained(uneven),
            peft_config=LoraConfig(r=4, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM"),
        )


def test_weights_that_the_converted_model_lacks_are_refused(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"0\.input_layernorm.* is not there as it is in the model; leave"):
        trees.train(tiny, tmp_path / "out", trees.Watched(), use_openvino=True)  # A product with 1 is left out.
