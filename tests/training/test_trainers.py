"""Trainers: each moves the model where its data or reward points, resumes, and refuses bad input."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.kernels.chunked_logprob
import trl.trainer.utils
import yaml
from datasets import Dataset, DatasetDict
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
from trl.experimental.online_dpo import OnlineDPOConfig

from benchmarks.process import ROOT, Server
from collab_agents import Lookahead
from collab_agents.config import EvalConfig, RunConfig, load_config
from collab_agents.errors import ConfigError
from collab_agents.judges import Conversation, as_judge, fact_coverage, token_cost
from collab_agents.models import load_chat_model
from collab_agents.rewards import MultiturnReward
from collab_agents.tasks import Task
from collab_agents.training import (
    LoraSection,
    MultiturnRewardFunction,
    OnlineDPOTrainer,
    PolicyConfig,
    PPOConfig,
    PPOTrainer,
    TreeGRPOConfig,
    TreeGRPOTrainer,
    arguments,
    opening_rows,
    prompt_row,
    read_dataset,
    read_samples,
    tiles,
    train_dpo,
    train_grpo,
    train_online_dpo,
    train_ppo,
    train_sft,
)
from collab_agents.training.advantages import generalized_advantages
from collab_agents.training.arguments import trainer_arguments
from collab_agents.training.config import OfflineConfig, OnlineConfig
from collab_agents.training.conversations import labelled
from collab_agents.training.loop import read_loop
from collab_agents.training.methods import Method
from collab_agents.training.online import train_online
from collab_agents.users import AgendaUser, ScriptedUser
from tests.support.commands import exit_code as run
from tests.support.tasks import party
from tests.support.tiny import TEMPLATE, chance_of, tiny_model
from tests.support.trajectories import trajectory

ASK = [{"role": "user", "content": "say"}]
QUICK = {
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "gradient_checkpointing": False,
    "bf16": False,
    "disable_tqdm": True,
}


OVERRIDDEN: dict[type[Any], list[str]] = {
    PPOTrainer: ["compute_loss", "_save"],
    TreeGRPOTrainer: [
        "_generate",
        "_calculate_rewards",
        "_generate_and_score_completions",
        "compute_loss",
        "training_step",
        "log",
    ],
    OnlineDPOTrainer: ["_forward", "log"],
}


def policy(name: str, *, full: bool = False) -> PolicyConfig:
    return PolicyConfig(name=name, dtype="float32", lora=None if full else LoraSection(r=8, alpha=16))


def says(letter: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": letter * 4}]


def likes_z(completions: list[Any], **_: Any) -> list[float]:
    """The share of the letter z in a reply."""
    return [text.count("z") / max(len(text), 1) for text in (one[0]["content"] for one in completions)]


def always(completions: list[Any], **_: Any) -> list[float]:
    return [1.0] * len(completions)


async def likes_z_later(completions: list[Any], **_: Any) -> list[float]:
    return likes_z(completions)


def only(rows: list[dict[str, Any]]) -> DatasetDict:
    return DatasetDict({"train": Dataset.from_list(rows)})


def preference(model: str | Path) -> float:
    return chance_of(model, "z") / chance_of(model, "q")


def prompts(count: int = 64) -> DatasetDict:
    return only([{"prompt": ASK, "goal": "z"}] * count)


@pytest.mark.parametrize("full", [False, True])
def test_sft_makes_what_the_assistant_said_more_likely_and_not_what_the_user_said(
    tiny: str, tmp_path: Path, full: bool
) -> None:
    rows = [{"messages": [{"role": "user", "content": "qqqq"}, *says("z")]}] * 16
    train_sft(policy(tiny, full=full), only(rows), tmp_path / "out", trainer={**QUICK, "max_steps": 10})
    assert preference(tmp_path / "out") > 4 * preference(tiny)
    assert chance_of(tmp_path / "out", "z") > 0.2


def test_dpo_makes_the_chosen_more_likely_and_the_rejected_less(tiny: str, tmp_path: Path) -> None:
    rows = [{"prompt": ASK, "chosen": says("z"), "rejected": says("q")}] * 16
    train_dpo(policy(tiny), only(rows), tmp_path / "out", trainer={**QUICK, "max_steps": 10})
    assert preference(tmp_path / "out") > 4 * preference(tiny)


@pytest.mark.parametrize("reward", [likes_z, likes_z_later])
def test_online_dpo_makes_what_is_rewarded_more_likely(tiny: str, tmp_path: Path, reward: Any) -> None:
    train_online_dpo(
        policy(tiny), prompts(), reward, tmp_path / "out",
        trainer={**QUICK, "max_steps": 20, "max_new_tokens": 8, "per_device_train_batch_size": 16},
    )  # fmt: skip
    assert chance_of(tmp_path / "out", "z") > 2 * chance_of(tiny, "z")


def test_grpo_makes_what_is_rewarded_more_likely(tiny: str, tmp_path: Path) -> None:
    train_grpo(
        policy(tiny), prompts(), likes_z_later, tmp_path / "out",
        trainer={**QUICK, "max_steps": 20, "max_completion_length": 8, "per_device_train_batch_size": 16},
    )  # fmt: skip
    assert chance_of(tmp_path / "out", "z") > 2 * chance_of(tiny, "z")


@pytest.mark.parametrize("full", [False, True])
def test_ppo_makes_what_is_rewarded_more_likely(tiny: str, tmp_path: Path, full: bool) -> None:
    logs = train_ppo(
        policy(tiny, full=full), prompts(), likes_z_later, tmp_path / "out",
        trainer={**QUICK, "max_steps": 24, "max_completion_length": 8, "per_device_train_batch_size": 16, "beta": 0.0},
    )  # fmt: skip
    assert chance_of(tmp_path / "out", "z") > 2 * chance_of(tiny, "z")
    assert logs["value_loss"] >= 0


def test_ppo_finds_the_best_arm_of_a_bandit_and_what_it_is_worth(tiny: str, tmp_path: Path) -> None:
    worth = {"z": 1.0, "q": 0.4, "k": 0.2}

    def pays(completions: list[Any], **_: Any) -> list[float]:
        return [worth.get(one[0]["content"][:1], 0.0) for one in completions]

    logs = train_ppo(
        policy(tiny, full=True),
        prompts(),
        pays,
        tmp_path / "out",
        trainer={
            **QUICK, "learning_rate": 3e-3, "max_steps": 80, "max_completion_length": 1, "beta": 0.0,
            "per_device_train_batch_size": 64, "vf_coef": 0.5, "lr_scheduler_type": "constant",
        },
    )  # fmt: skip
    assert chance_of(tmp_path / "out", "z") > 0.9
    assert logs["value/values_mean"] == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("rewards", [[None, None], [0.5, 0.5], [None, 1.0]])
def test_a_pair_that_prefers_nothing_moves_nothing_in_online_dpo(
    tiny: str, tmp_path: Path, rewards: list[float | None]
) -> None:
    def gives(completions: list[Any], **_: Any) -> list[float | None]:
        half = len(completions) // 2
        return [rewards[0]] * half + [rewards[1]] * half

    logs = train_online_dpo(
        policy(tiny), prompts(), gives, tmp_path / "out",
        trainer={**QUICK, "max_steps": 2, "max_new_tokens": 4, "per_device_train_batch_size": 4},
    )  # fmt: skip
    assert chance_of(tmp_path / "out", "z") == pytest.approx(chance_of(tiny, "z"), rel=1e-5)
    assert logs["pairs_kept"] == 0


@pytest.mark.parametrize("train", [train_ppo, train_grpo])
def test_replies_without_a_reward_move_nothing(tiny: str, tmp_path: Path, train: Any) -> None:
    def gives(completions: list[Any], **_: Any) -> list[float | None]:
        return [None] * len(completions)

    more = {"vf_coef": 0.5, "beta": 0.5, "num_iterations": 2} if train is train_ppo else {"beta": 0.0}
    train(
        policy(tiny), prompts(), gives, tmp_path / "out",
        trainer={**QUICK, "max_steps": 2, "max_completion_length": 4, **more},
    )  # fmt: skip
    assert chance_of(tmp_path / "out", "z") == pytest.approx(chance_of(tiny, "z"), rel=1e-5)


def test_while_its_values_warm_up_the_policy_stays_as_it_is(tiny: str, tmp_path: Path) -> None:
    logs = train_ppo(
        policy(tiny), prompts(), always, tmp_path / "out",
        trainer={**QUICK, "max_steps": 4, "max_completion_length": 8, "beta": 0.0, "value_warmup_steps": 4},
    )  # fmt: skip
    assert chance_of(tmp_path / "out", "z") == pytest.approx(chance_of(tiny, "z"), rel=1e-5)
    assert logs["value/values_mean"] != 0
    assert (tmp_path / "out" / "value_head.safetensors").exists()


def test_every_method_of_trl_that_is_overridden_is_still_called(tiny: str, tmp_path: Path) -> None:
    called: set[str] = set()

    def counting(trainer: type[Any]) -> type[Any]:
        def wrap(name: str) -> Any:
            def method(self: Any, *args: Any, **kwargs: Any) -> Any:
                called.add(f"{trainer.__name__}.{name}")
                return getattr(trainer, name)(self, *args, **kwargs)

            return method

        return type(trainer.__name__, (trainer,), {name: wrap(name) for name in OVERRIDDEN[trainer]})

    for trainer, shape, more in (
        (PPOTrainer, PPOConfig, {"max_completion_length": 4}),
        (TreeGRPOTrainer, TreeGRPOConfig, {"max_completion_length": 4}),
        (OnlineDPOTrainer, OnlineDPOConfig, {"max_new_tokens": 4}),
    ):
        assert all(name in vars(trainer) and hasattr(trainer.__mro__[1], name) for name in OVERRIDDEN[trainer])
        train_online(
            "test", counting(trainer), shape, policy(tiny), prompts(8), likes_z, tmp_path / trainer.__name__,
            trainer={**QUICK, "max_steps": 1, **more}, resume=False, settings=None,
        )  # fmt: skip
    assert called == {f"{trainer.__name__}.{name}" for trainer, names in OVERRIDDEN.items() for name in names}


def test_a_processor_has_trls_scores_in_tiles_as_large_as_it_is_told(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trl.kernels.chunked_logprob._forward_tile
    shapes: list[tuple[int, ...]] = []

    def watched(tile: torch.Tensor, *args: Any, **options: Any) -> None:
        shapes.append(tuple(tile.shape))
        whole(tile, *args, **options)

    monkeypatch.setattr(trl.kernels.chunked_logprob, "_forward_tile", watched)
    monkeypatch.setattr(trl.kernels.chunked_logprob, "TOKEN_CHUNK_SIZE", 4096)
    monkeypatch.setattr(trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", 32768)
    losses = []
    for name, size in (("wide", 1000), ("narrow", 16)):
        monkeypatch.setattr(tiles, "TOKENS", size)
        monkeypatch.setattr(tiles, "ENTRIES", size)
        shapes.clear()
        rows = only([{"messages": [*ASK, *says("z" * 9)]}] * 4)
        losses.append(train_sft(policy(tiny), rows, tmp_path / name, trainer={**QUICK, "max_steps": 3})["train_loss"])
        assert (len(shapes) > 9) == (size == 16)
        assert all(tokens <= size and entries <= size for tokens, entries in shapes)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_generalized_advantages_are_those_of_a_hand_computed_example() -> None:
    rewards = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    values = torch.tensor([[0.5, 0.4, 0.2, 9.0], [0.5, 9.0, 0.4, 0.2]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 1]])
    advantages, returns = generalized_advantages(rewards, values, mask, gamma=0.9, lam=0.8)
    # The last: 1 - 0.2. Before it: 0.9 * 0.2 - 0.4 + 0.72 * 0.8. The first: 0.9 * 0.4 - 0.5 + 0.72 * 0.356.
    expected = [0.11632, 0.356, 0.8]
    assert advantages[0].tolist() == pytest.approx([*expected, 0.0])
    assert advantages[1].tolist() == pytest.approx([expected[0], 0.0, *expected[1:]])
    assert returns[0].tolist() == pytest.approx([0.61632, 0.756, 1.0, 0.0])


@pytest.mark.parametrize(("train", "new"), [
    (train_ppo, "max_completion_length"), (train_grpo, "max_completion_length"), (train_online_dpo, "max_new_tokens"),
])  # fmt: skip
async def test_the_lookahead_reward_trains_with_the_policy_itself_in_the_futures(
    tiny: str, tmp_path: Path, train: Any, new: str
) -> None:
    judged: list[list[str]] = []

    def remembers(conversation: Conversation, task: Task) -> float:
        judged.append([message.type for message in conversation.messages])
        return 0.0

    made = await opening_rows([party(str(i)) for i in range(4)], AgendaUser())
    judges = {"fact_coverage": fact_coverage(), "token_cost": token_cost(rate=0.01), "seen": as_judge(remembers)}
    reward = MultiturnRewardFunction(
        AgendaUser(), MultiturnReward(judges), Lookahead(futures=2, window=1), max_tokens=12, temperature=1.0
    )
    logs = await asyncio.to_thread(
        lambda: train(
            policy(tiny),
            DatasetDict({"train": made.dataset()}),
            reward,
            tmp_path / "out",
            trainer={**QUICK, "max_steps": 2, new: 12, "per_device_train_batch_size": 8},
        )
    )
    assert -0.5 < logs["judges/token_cost"] < 0
    assert logs["judges/fact_coverage"] == 0
    assert logs["unscored"] == 0
    assert judged
    assert all(kinds == ["human", "ai", "human", "ai"] for kinds in judged)
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


async def test_futures_are_played_by_the_adapter_as_it_is_now(tiny: str, tmp_path: Path) -> None:
    rows = [{"messages": [*ASK, {"role": "assistant", "content": "what"}, *ASK, *says("z")]}] * 16
    train_sft(policy(tiny), only(rows), tmp_path / "z", trainer={**QUICK, "max_steps": 30})
    model = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "z")).train()
    said: list[str] = []

    def remembers(conversation: Conversation, task: Task) -> float:
        said.append(conversation.assistant_texts()[-1])
        return 1.0

    user = ScriptedUser(["say", "say"])
    reward = MultiturnRewardFunction(
        user,
        MultiturnReward({"seen": as_judge(remembers)}),
        Lookahead(futures=4, window=1),
        max_tokens=4,
        temperature=0.1,
    )
    reward.bind(model, AutoTokenizer.from_pretrained(tiny))
    assert await reward([ASK], [[{"role": "assistant", "content": "what"}]], goal=["z"]) == [1.0]
    with model.disable_adapter():
        await reward([ASK], [[{"role": "assistant", "content": "what"}]], goal=["z"])
    assert [text.count("z") for text in said[:4]] == [4, 4, 4, 4]
    assert sum(text.count("z") for text in said[4:]) < 8
    assert model.training


async def test_replies_that_cannot_be_scored_get_none_and_rewards_that_are_all_equal_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def strict(conversation: Conversation, task: Task) -> float:
        if "boom" in conversation.assistant_texts()[0]:
            raise ValueError("no")
        return 0.25

    reward = MultiturnRewardFunction(
        ScriptedUser(["go on"]),
        MultiturnReward({"strict": as_judge(strict)}),
        Lookahead(futures=2, window=0),
        assistant=GenericFakeChatModel(messages=iter([])),
    )
    metrics: dict[str, float] = {}
    replies = [[{"role": "assistant", "content": text}] for text in ("fine", "boom")]
    for _ in range(5):
        assert await reward([ASK, ASK], replies, goal=["a", "b"], log_metric=metrics.__setitem__) == [0.25, None]
    assert metrics == {"judges/strict": 0.25, "unscored": 0.5}
    assert "in 5 batches in a row every reply got the reward 0.25" in caplog.text
    with pytest.raises(ConfigError, match="no column 'goal'"):
        await reward([ASK], replies[:1])


async def test_futures_may_be_played_by_a_served_model_and_the_call_come_from_any_loop(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    assistant = load_chat_model("openai:served", base_url=server.url)
    reward = MultiturnRewardFunction(
        AgendaUser(), MultiturnReward({"cost": token_cost()}), Lookahead(futures=3, window=1), assistant=assistant
    )
    row = prompt_row([{"role": "system", "content": "be kind"}, *ASK], party(), None)
    columns: dict[str, Any] = {name: [value] * 4 for name, value in row.items() if name != "prompt"}
    replies = [[{"role": "assistant", "content": f"reply {i}"}] for i in range(4)]

    async def call() -> list[float | None]:
        return await reward([row["prompt"]] * 4, replies, [[1] * 10] * 4, **columns)

    for _ in range(2):  # Each in an event loop of its own.
        rewards = await asyncio.to_thread(lambda: asyncio.run(call()))
        assert all(value is not None and -1 < value < -10 * 5e-4 for value in rewards)
    assert server.stats()["calls"] == 2 * 4 * 3


def test_training_that_was_killed_goes_on_to_the_same_loss(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["zq" * n for n in range(1, 30)]
    rows = [{"messages": [*ASK, {"role": "assistant", "content": text}]} for text in texts]
    Dataset.from_list(rows).to_json(tmp_path / "rows.jsonl")
    config = {
        "model": {"name": tiny, "dtype": "float32", "lora": {"r": 8}},
        "data": {"dataset": str(tmp_path / "rows.jsonl")},
        "trainer": {**QUICK, "learning_rate": 3e-3, "max_steps": 20, "save_strategy": "steps", "save_steps": 5},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))

    def command(out: str, *more: str) -> list[str]:
        return ["train", "sft", "--config", str(tmp_path / "train.yaml"), "--out", str(tmp_path / out), *more]

    assert run(*command("whole")) == 0
    cut = [sys.executable, "-m", "collab_agents", *command("cut")]
    killed = subprocess.Popen(cut, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while killed.poll() is None and not (tmp_path / "cut" / "checkpoint-5" / "trainer_state.json").exists():
        time.sleep(0.005)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut" / "training_log.json").exists()
    (tmp_path / "cut" / "checkpoint-999").mkdir()  # As a kill leaves it that comes while one is written.
    assert run(*command("cut")) == 1
    assert "already holds a training" in capsys.readouterr().err
    assert run(*command("cut", "--resume")) == 0
    whole, cut_short = losses(tmp_path / "whole"), losses(tmp_path / "cut")
    assert cut_short.keys() == whole.keys()
    assert cut_short[20] == pytest.approx(whole[20], rel=1e-3)
    assert (tmp_path / "cut" / "training_curves.png").stat().st_size > 1000
    card = (tmp_path / "cut" / "README.md").read_text()
    assert f"`{Path(tiny).name}` trained by sft with collab-agents" in card
    assert tiny not in card
    assert all(part in card for part in ("library_name: peft", "learning_rate: 0.003", "| train_loss |", "trl 1."))


DRAFTING = """
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from collab_agents import load_chat_model

model = load_chat_model("policy")

async def answer(state):
    said = await model.ainvoke(state["messages"])
    if len(said.content) % 2:
        said = await model.ainvoke([*state["messages"], said, HumanMessage("again")])
    return {"messages": [said]}

app = RunnableLambda(answer)
"""

IN_TWO_PROCESSES = """
import sys
from pathlib import Path
import torch.distributed
from collab_agents.cli.app import run_command

def train(method, out, *more):
    if run_command(["train", method, "--config", f"{out}.yaml", "--out", out, *more]):
        sys.exit(1)
    torch.distributed.barrier()

train("sft", "sft")
train("online-dpo", "online-dpo")
train("grpo", "grpo")
train("grpo", "app")
train("ppo", "ppo")
if torch.distributed.get_rank() == 0:
    for name in ("training_log.json", "checkpoint-2/trainer_state.json"):
        Path("ppo", name).unlink()
torch.distributed.barrier()
train("ppo", "ppo", "--resume")
"""


def losses(folder: Path) -> dict[int, float]:
    """The logged losses by step."""
    log = json.loads((folder / "training_log.json").read_text())
    return {entry["step"]: entry["loss"] for entry in log if "loss" in entry}


def test_two_processes_train_as_one_does_on_the_lookahead_reward_too_and_resume(tiny: str, tmp_path: Path) -> None:
    """With the loss of one process that has twice the batch. One launch, since loading TRL takes the most time."""
    tasks = [party(str(i)).model_dump() for i in range(8)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    rows = [{"messages": [*ASK, {"role": "assistant", "content": "zq" * n}]} for n in range(1, 33)]
    Dataset.from_list(rows).to_json(tmp_path / "rows.jsonl")

    def write(name: str, data: dict[str, Any], trainer: dict[str, Any], **more: Any) -> None:
        config = {
            "model": {"name": tiny, "dtype": "float32", "lora": {"r": 8}},
            "data": data,
            "trainer": QUICK | trainer,
            **more,
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))

    scene = {
        "assistant": {"model": {"max_tokens": 8}},
        "user": {"kind": "agenda"},
        "judges": [{"name": "token_cost"}],
        "lookahead": {"max_exchanges": 1},
        "tasks": {"source": "tasks.jsonl", "limit": 2},
    }
    for name, batch in (("one", 8), ("sft", 4)):
        trainer = {"learning_rate": 3e-3, "max_steps": 6, "train_sampling_strategy": "sequential"}
        data = {"dataset": str(tmp_path / "rows.jsonl")}
        evaluation = {"config": scene, "every": 4, "load_best": False} if name == "sft" else None
        write(name, data, {**trainer, "per_device_train_batch_size": batch}, evaluation=evaluation)
    for name, length in (("ppo", "max_completion_length"), ("online-dpo", "max_new_tokens")):
        trainer = {
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "save_strategy": "steps",
            "save_steps": 1,
            length: 8,
        }
        reward = {"judges": [{"name": "token_cost"}], "futures": 1, "max_tokens": 8}
        evaluation = {"config": scene, "every": 2} if name == "ppo" else None
        write(name, {"tasks": {"source": "tasks.jsonl"}}, trainer, reward=reward, evaluation=evaluation)
    # A group of four is on both processes, whose replies are followed by different numbers of turns.
    trainer = {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "num_generations": 4,
        "learn": "tree",
        "max_completion_length": 8,
    }
    reward |= {"futures": 2, "window": 2}
    write("grpo", {"tasks": {"source": "tasks.jsonl"}}, trainer, reward=reward)
    (tmp_path / "drafting.py").write_text(DRAFTING)
    write("app", {"tasks": {"source": "tasks.jsonl"}}, trainer, reward=reward, assistant={"app": "drafting:app"})

    assert run("train", "sft", "--config", tmp_path / "one.yaml", "--out", tmp_path / "one") == 0
    (tmp_path / "in_turn.py").write_text(IN_TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    done = subprocess.run(
        [*launch, "--rdzv_endpoint", "localhost:0", "in_turn.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(losses(tmp_path / "one")) == 6
    assert losses(tmp_path / "sft") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    assert done.stdout.count("8 prompts rows of 8 tasks") >= 2
    for name in ("ppo", "online-dpo"):
        log = json.loads((tmp_path / name / "training_log.json").read_text())
        assert next(entry for entry in log if "loss" in entry)["judges/token_cost"] < 0
        assert [sample.step for sample in read_samples(tmp_path / name)] == [1, 2]
    assert list(losses(tmp_path / "ppo")) == [1, 2]
    for name, steps in (("sft", [0, 4, 6]), ("ppo", [0, 2])):
        log = json.loads((tmp_path / name / "training_log.json").read_text())
        assert [entry["step"] for entry in log if "heldout/reward" in entry] == steps
    for name in ("grpo", "app"):
        grown = json.loads((tmp_path / name / "training_log.json").read_text())
        assert all(4 < entry["tree/turns"] <= entry["tree/calls"] for entry in grown if "loss" in entry)
    assert all(1 < entry["app/calls"] < 2 for entry in grown if "loss" in entry)


@pytest.mark.parametrize(
    ("section", "said_so"),
    [
        ({"trainer": {"learning_rte": 1e-3}}, "SFTConfig has no such key; did you mean 'learning_rate'"),
        ({"trainer": {"learning_rate": "fast"}}, "trainer.learning_rate: input should be a valid number"),
        ({"trainer": {"output_dir": "x"}}, "trainer.output_dir: set it with --out instead"),
        ({"trainer": {"max_length": 4}}, "every one of the 2 train conversations is longer than 4 tokens"),
        ({"model": {"name": "./nowhere"}}, "the folder has no config.json"),
        ({"model": {"name": "TINY", "quantize": "4bit"}}, "4bit needs"),
        ({"model": {"name": "TINY", "quantize": "4bit", "lora": None}}, "it needs lora"),
        ({"model": {"name": "TINY", "lora": {"rank": 8}}}, "rank: unknown field"),
        ({"data": {"runs": ["x"], "dataset": "y"}}, "give either runs"),
        ({"data": {"dataset": "ROWS", "eval_share": 0.5}}, "no column 'task_id' to split by"),
        ({"trainer": {"eval_strategy": "steps"}}, "the trainer cannot be built: "),
        ({"model": {"name": "TINY", "lora": {"target_modules": ["nowhere"]}}}, "the trainer cannot be built: Target"),
        ({"data": {"dataset": "OTHER"}}, "there is no column 'messages', which sft needs; its columns are text"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_before_the_first_step(
    tiny: str, tmp_path: Path, section: dict[str, Any], said_so: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"messages": [*ASK, *says("z")]}] * 2
    Dataset.from_list(rows).to_json(tmp_path / "rows.jsonl")
    Dataset.from_list([{"text": "z"}]).to_json(tmp_path / "other.jsonl")
    config = {"model": {"name": tiny}, "data": {"dataset": str(tmp_path / "rows.jsonl")}, **section}
    text = yaml.safe_dump(config).replace("TINY", tiny).replace("ROWS", str(tmp_path / "rows.jsonl"))
    (tmp_path / "train.yaml").write_text(text.replace("OTHER", str(tmp_path / "other.jsonl")))
    assert run("train", "sft", "--config", tmp_path / "train.yaml", "--out", tmp_path / "out") == 1
    assert said_so in " ".join(capsys.readouterr().err.split())


def test_a_start_that_failed_can_be_put_right_in_the_same_folder(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Dataset.from_list([{"messages": [*ASK, *says("z")]}] * 2).to_json(tmp_path / "rows.jsonl")
    config: dict[str, Any] = {"data": {"dataset": str(tmp_path / "rows.jsonl")}}
    for model, code in (("./nowhere", 1), (tiny, 0), (tiny, 1)):
        config |= {"model": {"name": model}, "trainer": {**QUICK, "max_steps": 1}}
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
        assert run("train", "sft", "--config", tmp_path / "train.yaml", "--out", tmp_path / "out") == code
    assert "already holds a training: resume it, or choose" in " ".join(capsys.readouterr().err.split())


def test_what_a_dataset_holds_out_is_evaluated_on_and_never_trained_on(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs.jsonl").write_text(
        "".join(trajectory(f"t{i}", 0.1, 0.9).model_dump_json() + "\n" for i in range(40))
    )
    options: list[str | Path] = ["--from", tmp_path / "runs.jsonl", "--kind", "preference", "--eval-share", "0.3"]
    assert run("dataset", *options, "--out", tmp_path / "pairs") == 0
    data = read_dataset(str(tmp_path / "pairs"), "preference")
    assert set(data) == {"train", "eval"}
    assert not {*data["train"]["task_id"]} & {*data["eval"]["task_id"]}
    config: dict[str, Any] = {
        "model": {"name": tiny},
        "data": {"dataset": str(tmp_path / "pairs")},
        "trainer": {**QUICK, "max_steps": 1, "eval_strategy": "steps", "eval_steps": 1},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    assert run("train", "dpo", "--config", tmp_path / "train.yaml", "--out", tmp_path / "out") == 0
    logged = json.loads((tmp_path / "out" / "training_log.json").read_text())
    assert any("eval_loss" in entry for entry in logged)
    config["data"]["eval_share"] = 0.5
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    assert run("train", "dpo", "--config", tmp_path / "train.yaml", "--out", tmp_path / "other") == 1
    assert "already has a held-out split; leave eval_share out" in " ".join(capsys.readouterr().err.split())


def test_prompts_that_do_not_fill_a_generation_batch_are_refused_or_counted(
    tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {**QUICK, "max_steps": 1, "max_completion_length": 4, "per_device_train_batch_size": 8}
    with pytest.raises(ConfigError, match=r"there are 3 prompts, and one generation batch takes 4 \("):
        train_ppo(policy(tiny), prompts(3), likes_z, tmp_path / "few", trainer=options)
    train_ppo(policy(tiny), prompts(7), likes_z, tmp_path / "more", trainer=options)
    assert "in each epoch 3 of the 7 prompts, drawn again each time, are left out" in caplog.text


def test_keys_that_arrow_filled_with_none_never_reach_the_template(tmp_path: Path) -> None:
    strict = "{% for message in messages %}{% if 'tool_calls' in message %}{{ message['tool_calls'] | length }}"
    strict += "{% endif %}{% endfor %}" + TEMPLATE
    model = tiny_model(tmp_path / "strict", template=strict)
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    looked = {"role": "assistant", "content": "look", "tool_calls": [call]}
    found = {"role": "tool", "content": "found", "tool_call_id": "1"}
    rows: list[dict[str, Any]] = [
        {"prompt": ASK, "chosen": says("z"), "rejected": says("q")},
        {"prompt": [*ASK, looked, found], "chosen": says("z"), "rejected": says("q")},
    ]
    assert Dataset.from_list(rows)[1]["prompt"][0]["tool_calls"] is None
    train_dpo(policy(model), only(rows), tmp_path / "dpo", trainer={**QUICK, "max_steps": 2})
    asked = DatasetDict({"train": Dataset.from_list([{"prompt": row["prompt"]} for row in rows] * 4)})
    for train, new in ((train_grpo, "max_completion_length"), (train_online_dpo, "max_new_tokens")):
        out = tmp_path / train.__name__
        train(policy(model), asked, likes_z, out, trainer={**QUICK, "max_steps": 1, new: 4})
        assert (out / "adapter_model.safetensors").exists()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator has its own types")
@pytest.mark.parametrize("imitated", [True, False])
def test_bfloat16_is_not_imitated_on_a_processor(
    imitated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "has_bfloat16", lambda: not imitated)
    for method in (Method.sft, Method.dpo, Method.grpo, Method.ppo, Method.online_dpo):
        assert trainer_arguments(method.arguments, {}, tmp_path).bf16 is not imitated
        assert trainer_arguments(method.arguments, {"bf16": True}, tmp_path).bf16 is True


@pytest.mark.parametrize(
    "file",
    [file for file in sorted((ROOT / "examples" / "train_collaborator").rglob("*.yaml")) if file.stem != "fsdp2"],
    ids=lambda file: f"{file.parent.name}-{file.stem}",
)
def test_every_file_of_the_recipe_is_understood(file: Path, tmp_path: Path) -> None:
    name = file.stem.removesuffix("-cpu")
    if name in list(Method) and Method(name).online:
        online = load_config(file, OnlineConfig)
        assert trainer_arguments(Method(name).arguments, online.trainer, tmp_path)
        assert online.data.tasks or online.data.runs
    elif name in list(Method):
        assert trainer_arguments(Method(name).arguments, load_config(file, OfflineConfig).trainer, tmp_path)
    elif name == "loop":
        assert read_loop(file).trainings
    else:
        shape: type[RunConfig] | type[EvalConfig] = RunConfig if name == "generate" else EvalConfig
        assert load_config(file, shape).judges


def test_a_template_whose_assistant_tokens_cannot_be_told_is_refused_and_markers_are_used(tmp_path: Path) -> None:
    # Like templates that drop the reasoning of all replies but the last.
    forgetful = TEMPLATE.replace("message['content'] +", "(message['content'] if loop.last else 'x') +")
    rows = [{"messages": [*ASK, *says("z"), *ASK, *says("z")]}]
    tiny_model(tmp_path / "forgetful", template=forgetful)
    with pytest.raises(ConfigError, match=r"no \{% generation %\} markers"):
        train_sft(policy(str(tmp_path / "forgetful")), only(rows), tmp_path / "out", trainer=QUICK)
    tiny_model(tmp_path / "none", template=None)
    with pytest.raises(ConfigError, match="has no chat template"):
        train_sft(policy(str(tmp_path / "none")), only(rows), tmp_path / "none-out", trainer=QUICK)
    marked = (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}<|im_start|>a {% generation %}"
        "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
        "{{ '<|im_start|>' + message['role'][0] + ' ' + message['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>a {% endif %}"
    )
    both = [
        labelled(AutoTokenizer.from_pretrained(tiny_model(tmp_path / name, template=template)), rows[0]["messages"])
        for name, template in (("plain", TEMPLATE), ("marked", marked))
    ]
    assert both[0] == both[1]
    learnt = [i for i in both[0]["labels"] if i != -100]
    tokenizer: Any = AutoTokenizer.from_pretrained(str(tmp_path / "plain"))
    assert tokenizer.decode(learnt) == "zzzz<|im_end|>" * 2


def test_conversations_that_are_too_long_are_left_out_and_counted(
    tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = [{"messages": [*ASK, {"role": "assistant", "content": "z" * 600}]}]
    rows = [{"messages": [*ASK, *says("z")]}] * 3 + long
    train_sft(policy(tiny), only(rows), tmp_path / "out", trainer={**QUICK, "max_steps": 1, "max_length": None})
    assert "1 of 4 train conversations are longer than 512 tokens and are left out" in caplog.text


def test_an_adapter_merges_to_a_plain_model_that_plays_as_a_local_model(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"messages": [*ASK, *says("z")]}] * 16
    train_sft(policy(tiny), only(rows), tmp_path / "out", trainer={**QUICK, "max_steps": 10})
    assert run("merge", "--adapter", tmp_path / "out", "--out", tmp_path / "merged") == 0
    assert chance_of(tmp_path / "merged", "z") == pytest.approx(chance_of(tmp_path / "out", "z"), rel=1e-2)
    model = load_chat_model(f"local:{tmp_path / 'merged'}", max_tokens=4, temperature=0, dtype="float32")
    assert model.invoke("say").content == "zzzz"
    assert run("merge", "--adapter", tmp_path / "merged", "--out", tmp_path / "again") == 1
    assert "there is no adapter_config.json" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="is an adapter: merge it first"):
        train_sft(policy(str(tmp_path / "out")), only(rows), tmp_path / "more", trainer=QUICK)
