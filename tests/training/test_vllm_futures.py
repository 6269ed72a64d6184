"""With `use_vllm`, the vLLM that samples plays the futures too. Here, a stand-in for vLLM plays a tiny model."""

import asyncio
import json
import pickle
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer, TrainerState

from collab_agents import Lookahead
from collab_agents.errors import ConfigError
from collab_agents.judges import token_cost
from collab_agents.models.engines.base import Job
from collab_agents.rewards import MultiturnReward
from collab_agents.training import MultiturnRewardFunction, read_samples
from collab_agents.training.vllm_engines import ServedEngine
from collab_agents.users import ScriptedUser
from tests.support.scripts import script
from tests.support.tasks import party
from tests.support.trees import Said, compare_models, directly
from tests.support.vllm_server import VLLMServer

BEGIN = """
import asyncio, json, sys, threading
import torch
import vllm
from pathlib import Path
from transformers import AutoTokenizer
from collab_agents.errors import ConfigError
from collab_agents.models.engines.base import Job
from collab_agents.training import TreeGRPOConfig, TreeGRPOTrainer, train_grpo, train_ppo
from tests.support import trees

tiny, tokenizer = sys.argv[1], AutoTokenizer.from_pretrained(sys.argv[1])
"""

TREES = """
def correction(mode):
    def ratio(row, old):
        sampled = torch.tensor(known[tuple(row.prompt), tuple(row.tokens)])
        each = torch.exp(old - sampled)
        whole = each.prod()
        return (whole if whole <= 1.02 else 0.0) if mode == "sequence_mask" else each.clamp(max=1.02)
    return ratio

for name, mode, method, sleeps in (
    ("masked", "sequence_mask", train_grpo, False),
    ("cut", "token_truncate", train_grpo, True),
    ("ppo", "sequence_mask", train_ppo, False),
):
    vllm.calls.clear()
    reward = trees.Watched()
    options = {"beta": 0.2, "num_iterations": 2, "max_steps": 4, "use_vllm": True, "vllm_enable_sleep_mode": sleeps,
        "vllm_importance_sampling_mode": mode, "vllm_importance_sampling_clip_max": 1.02}
    if method is train_ppo:
        options |= {"gamma": trees.GAMMA, "lam": trees.LAM, "vf_coef": trees.VF}
    logs = trees.train(tiny, Path(name), reward, method, learning_rate=0.2, **options)
    known = {(tuple(one.prompt), tuple(one.sampled.ids)): one.sampled.logprobs for one in vllm.calls}
    direct = trees.directly(tiny, reward, rate=0.2, beta=0.2, iterations=2, ppo=method is train_ppo,
        correction=correction(mode))
    plain = trees.directly(tiny, reward, rate=0.2, beta=0.2, iterations=2, ppo=method is train_ppo)
    replies = [one.loads for one in vllm.calls if one.seed is None]
    futures = [one.loads for one in vllm.calls if one.seed is not None]
    recorded = [call for _, _, scored in reward.seen for one in scored for calls in one.calls for call in calls]
    print(json.dumps({
        "moved, apart": trees.compare_models(tiny, direct, Path(name)),
        "without correction": trees.compare_models(tiny, plain, Path(name))[1],
        "loads": [sorted(set(replies)), sorted(set(futures))],
        "steps": [sorted({one.policy_step for one in scored}) for _, _, scored in reward.seen],
        "recorded": all(known[tuple(call.prompt), tuple(call.completion)] == call.logprobs for call in recorded),
        "futures": [len(futures), len(recorded)],
        "staleness": logs["policy/staleness"],
    }))
"""

PAIRS = """
for sleeps in (False, True):
    vllm.calls.clear()
    reward = trees.Watched()
    trees.pairs(tiny, Path(f"pairs-{sleeps}"), reward, max_steps=2, use_vllm=True, vllm_enable_sleep_mode=sleeps)
    print(json.dumps({
        "loads": [[one.seed is not None, one.loads] for one in vllm.calls],
        "steps": [sorted({one.policy_step for one in scored}) for _, _, scored in reward.seen],
        "futures": sum(len(calls) for _, _, scored in reward.seen for one in scored for calls in one.calls),
    }))

try:
    trees.pairs(tiny, Path("parallel"), trees.Watched(), use_vllm=True, vllm_tensor_parallel_size=2, max_steps=1)
except ConfigError as error:
    print(json.dumps(str(error)))

for most in (0, 2):
    args = TreeGRPOConfig(f"stale-{most}", use_vllm=True, use_cpu=True, bf16=False, report_to="none")
    trainer = TreeGRPOTrainer(tiny, trees.Watched(max_staleness=most), args, trees.prompts()["train"],
        processing_class=tokenizer)
    found = []
    for step in (0, 1, 2, 3):
        trainer.state.global_step = step
        with trainer.player.ready():
            found.append([trainer.player.version(), trainer.vllm_generation.llm.loads])
    print(json.dumps({"versions, loads": found}))

async def give_up():
    begun, llm = threading.Event(), trainer.vllm_generation.llm
    generate = llm.generate
    llm.generate = lambda *given, **more: (begun.set(), generate(*given, **more))[1]
    job = Job([4, 5, 6], max_tokens=200, temperature=1.0, top_p=1.0, seed=0)
    with trainer.player.ready():
        call = asyncio.create_task(trainer.player.engine.complete(job))
        await asyncio.to_thread(begun.wait)
        call.cancel()
        await asyncio.wait([call])

vllm.calls.clear()
asyncio.run(give_up())
print(json.dumps({"finished": len(vllm.calls)}))
"""


@pytest.fixture
def server(tiny: str) -> Iterator[VLLMServer]:
    server = VLLMServer(tiny)
    yield server
    server.close()


def test_in_one_process_the_engine_that_samples_plays_the_futures_and_trees_learn_with_its_probabilities(
    tiny: str, tmp_path: Path
) -> None:
    for found in script(tmp_path, BEGIN + TREES, tiny):
        moved, apart = found["moved, apart"]
        assert moved > 1e-2
        assert apart < 1e-5
        assert found["without correction"] > 1e-4
        assert found["steps"] == [[0], [2]]
        assert found["recorded"]
        assert found["futures"][0] == found["futures"][1] > 16
        assert found["staleness"] == 0


def test_online_dpo_plays_futures_by_its_engine_and_engines_that_processes_share_are_refused(
    tiny: str, tmp_path: Path
) -> None:
    plain, asleep, refused, fresh, stale, given_up = script(tmp_path, BEGIN + PAIRS, tiny)
    for found, loads in ((plain, [1, 1, 2, 2]), (asleep, [1, 2, 3, 4])):
        assert found["steps"] == [[0], [1]]
        assert found["futures"] > 8
        assert sorted({tuple(one) for one in found["loads"]}, key=lambda one: (one[1], one[0])) == [
            (False, loads[0]), (True, loads[1]), (False, loads[2]), (True, loads[3]),
        ]  # fmt: skip
    assert "vllm_tensor_parallel_size must be 1 where the model in training plays the futures, got 2" in refused
    assert fresh["versions, loads"] == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert stale["versions, loads"] == [[0, 1], [0, 1], [0, 1], [3, 2]]
    assert given_up["finished"] == 1  # The trainer may use the engine only then.


async def test_an_engine_with_older_weights_than_allowed_plays_no_future(tiny: str, server: VLLMServer) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    engine = ServedEngine(server.url, tokenizer)
    say, reply = [{"role": "user", "content": "say"}], [{"role": "assistant", "content": "what"}]
    for most, said_so in (
        (1, "reward.max_staleness is 1, and at step 5 the engine has the weights of step 3"),
        (2, ""),
    ):
        reward = MultiturnRewardFunction(
            ScriptedUser(["say"]),
            MultiturnReward({"cost": token_cost()}),
            Lookahead(futures=2, window=1),
            max_staleness=most,
            max_tokens=4,
        )
        reward.bind_engine(engine, lambda: 3)
        logged: dict[str, float] = {}
        options: dict[str, Any] = {"trainer_state": TrainerState(global_step=5), "goal": ["z"]}
        if said_so:
            with pytest.raises(ConfigError, match=said_so):
                await reward([say], [reply], log_metric=logged.__setitem__, **options)
            continue
        assert await reward([say], [reply], log_metric=logged.__setitem__, **options) != [None]
        assert logged["policy/staleness"] == 2
        assert reward.last[0].policy_step == 3


async def test_a_served_engine_tells_the_tokens_it_sampled_and_what_went_wrong(tiny: str, server: VLLMServer) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny)
    engine = ServedEngine(server.url, tokenizer)
    assert engine.context == 512
    prompt = engine.encode([{"role": "user", "content": "say"}])
    jobs = [Job(prompt, max_tokens=24, temperature=1.0, top_p=1.0, seed=seed) for seed in range(24)]
    made = await asyncio.gather(*(engine.complete(job) for job in jobs))
    again = await asyncio.gather(*(engine.complete(job) for job in jobs))
    assert made == again
    assert {one.finish_reason for one in made} == {"stop", "length"}
    for one in made:
        ended = one.finish_reason == "stop"
        assert len(one.ids) == len(one.logprobs) == one.tokens + ended
        assert (one.ids[-1] == tokenizer.eos_token_id) is ended
        assert one.text == tokenizer.decode(one.ids, skip_special_tokens=True).strip()
        assert all(value is not None and value < 0 for value in one.logprobs)
    whole = next(one for one in made if len(one.text) > 4)
    stopped = await engine.complete(replace(jobs[made.index(whole)], stop=(whole.text[2],)))
    assert stopped.text == whole.text.partition(whole.text[2])[0].strip()
    assert len(stopped.ids) == stopped.tokens < len(whole.ids)
    server.close()
    with pytest.raises(ConnectionError, match="the vLLM server at http"):
        await engine.complete(jobs[0])
    with pytest.raises(ConfigError, match="does not list its model: "):
        ServedEngine(server.url, tokenizer)


SERVED = """
import sys, urllib.request
import torch
from transformers import LlamaForCausalLM
from trl.generation.vllm_client import VLLMClient
from collab_agents.cli.app import run_command

url = sys.argv[1]
connect = VLLMClient.init_communicator
VLLMClient.init_communicator = lambda self, device: connect(self, torch.device("cuda"))  # The stand-in needs none.
waited = []

def wait(module, args):
    if isinstance(module, LlamaForCausalLM) and not waited:
        waited.append(module)
        urllib.request.urlopen(f"{url}/future", timeout=60).close()

torch.nn.modules.module.register_module_forward_pre_hook(wait)
sys.exit(run_command(["train", "grpo", "--config", "grpo.yaml", "--out", "out"]))
"""


def test_a_server_plays_the_futures_of_an_adapter_while_the_trainer_computes(
    tiny: str, tmp_path: Path, server: VLLMServer
) -> None:
    """The trainer's first forward pass waits for the first future to begin."""
    tasks = [party(str(i)).model_dump() for i in range(4)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    config = {
        "model": {"name": tiny, "dtype": "float32", "lora": {"r": 4}},
        "data": {"tasks": {"source": "tasks.jsonl"}},
        "reward": {"judges": [{"name": "token_cost"}], "futures": 2, "window": 2, "max_tokens": 8},
        "samples": {"every": 1, "prompts": 2, "futures": 2},
        "trainer": {
            "learn": "tree",
            "use_vllm": True,
            "vllm_mode": "server",
            "vllm_server_base_url": server.url,
            "vllm_group_port": free_port(),
            "max_steps": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "per_device_train_batch_size": 4,
            "num_generations": 2,
            "max_completion_length": 8,
            "save_strategy": "no",
            "report_to": "none",
            "bf16": False,
            "gradient_checkpointing": False,
        },
    }
    (tmp_path / "grpo.yaml").write_text(yaml.safe_dump(config))
    script(tmp_path, SERVED, server.url)
    log = server.log()
    versions = {
        seeded: [one["loads"] for one in log if (one["seed"] is not None) is seeded] for seeded in (False, True)
    }
    assert versions[False] == [1] * 4 + [2] * 4
    assert sorted(set(versions[True])) == [1, 2]
    futures = [(sample.step, one.policy_step) for sample in read_samples(tmp_path / "out")
        for reply in sample.replies for one in reply.futures]  # fmt: skip
    assert sorted(set(futures)) == [(1, 0), (2, 1)]
    logs = json.loads((tmp_path / "out" / "training_log.json").read_text())
    steps = [one for one in logs if "loss" in one]
    assert [one["policy/staleness"] for one in steps] == [0, 0]
    assert sum(one["tree/calls"] for one in steps) == len(log)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


SHARDED = """
import json, os, pickle, sys
import torch.distributed
import vllm
from pathlib import Path
import tests.support.sharded
from collab_agents.training import LoraSection, PolicyConfig, train_grpo
from tests.support import trees

reward = trees.Watched()
logs = []
for name, lora, more in (
    ("whole", None, {"learning_rate": 0.5}),
    ("adapter", LoraSection(r=4), {"learning_rate": 0.1, "vllm_enable_sleep_mode": True}),
):
    policy = PolicyConfig(name=sys.argv[1], dtype="float32", lora=lora)
    options = {**trees.QUICK, "learn": "tree", "use_vllm": True, "beta": 0.2, "gradient_accumulation_steps": 1,
        "max_steps": 3, "vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": 1.02}
    logs.append(train_grpo(policy, trees.prompts(), reward, name, trainer={**options, **more}))
    if lora is None:
        known = {(tuple(one.prompt), tuple(one.sampled.ids)): one.sampled.logprobs for one in vllm.calls}
        Path(f"seen-{os.environ['RANK']}").write_bytes(pickle.dumps((list(reward.seen), known)))
if os.environ["RANK"] == "0":
    print(json.dumps(logs))
torch.distributed.destroy_process_group()
"""


def test_sharded_over_processes_each_plays_its_futures_and_they_train_as_one(tiny: str, tmp_path: Path) -> None:
    """FSDP2 on two processes. The training is that of a direct implementation on what both sampled."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    sharding = {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    }
    launcher += ["--rdzv_endpoint", "localhost:0"]
    ((_, adapter),) = script(tmp_path, SHARDED, tiny, launcher=launcher, environment=sharding)
    kept = [pickle.loads((tmp_path / f"seen-{rank}").read_bytes()) for rank in (0, 1)]
    known = kept[0][1] | kept[1][1]
    both = SimpleNamespace(
        seen=[
            tuple(list(one) + list(other) for one, other in zip(*of_a_step, strict=True))
            for of_a_step in zip(kept[0][0], kept[1][0], strict=True)
        ]
    )
    assert [{one.policy_step for one in scored} for _, _, scored in both.seen] == [{0}, {1}, {2}]

    def correction(row: Said, old: torch.Tensor) -> torch.Tensor:
        return torch.exp(old - torch.tensor(known[tuple(row.prompt), tuple(row.tokens)])).clamp(max=1.02)

    direct = directly(tiny, both, rate=0.5, beta=0.2, iterations=1, correction=correction)
    moved, apart = compare_models(tiny, direct, tmp_path / "whole")
    assert moved > 1e-2
    assert apart < 1e-5
    # The adapter was merged for vLLM in every step, and nothing is left of that.
    assert adapter["sampling/sampling_logp_difference/mean"] < 0.05
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(one.abs().max() > 0 for one in weights.values())
