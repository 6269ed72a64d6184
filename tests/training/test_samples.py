"""What an online training samples is recorded as it goes on, survives a kill, and reaches the loggers."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
import yaml
from datasets import DatasetDict
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trl import GRPOConfig, GRPOTrainer

from collab_agents import Lookahead
from collab_agents.errors import RunDirectoryError
from collab_agents.judges import Conversation, as_judge, token_cost
from collab_agents.messages import text_of
from collab_agents.rewards import MultiturnReward
from collab_agents.tasks import Task
from collab_agents.training import (
    LoraSection,
    MultiturnRewardFunction,
    PolicyConfig,
    SamplesConfig,
    read_samples,
    record_samples,
    train_grpo,
    train_online_dpo,
    train_ppo,
)
from collab_agents.training.loggers import log_table
from collab_agents.training.samples import Sample, SampledFuture, SampledReply
from collab_agents.users import AgendaUser, ScriptedUser
from tests.support.commands import exit_code as run
from tests.support.tasks import party

QUICK = {
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "gradient_checkpointing": False,
    "bf16": False,
    "disable_tqdm": True,
    "per_device_train_batch_size": 4,
}
GRPO = {**QUICK, "num_generations": 2, "max_completion_length": 8}


def policy(name: str) -> PolicyConfig:
    return PolicyConfig(name=name, dtype="float32", lora=LoraSection(r=4))


def reward_function(futures: int = 2) -> MultiturnRewardFunction:
    judges = {"token_cost": token_cost(rate=0.01)}
    return MultiturnRewardFunction(
        AgendaUser(), MultiturnReward(judges), Lookahead(futures=futures, window=1), max_tokens=8
    )


@pytest.mark.parametrize(
    ("train", "new"),
    [(train_grpo, "max_completion_length"), (train_ppo, "max_completion_length"), (train_online_dpo, "max_new_tokens")],
)
def test_a_prompt_of_each_step_is_recorded_with_all_its_replies_and_a_future_of_each(
    tiny: str, tmp_path: Path, openings: DatasetDict, train: Any, new: str
) -> None:
    more = {train_ppo: {"num_iterations": 1}, train_grpo: {"num_generations": 4}}.get(train, {})
    train(
        policy(tiny), openings, reward_function(), tmp_path / "out", trainer={**QUICK, **more, new: 8, "max_steps": 2}
    )
    samples = list(read_samples(tmp_path / "out"))
    assert [one.step for one in samples] == [1, 2]
    for sample in samples:
        assert [message["role"] for message in sample.prompt] == ["user"]
        assert sample.task.goal == party().goal
        assert len(sample.replies) == (4 if train is train_grpo else 2)
        for reply in sample.replies:
            assert [message["role"] for message in reply.messages] == ["assistant"]
            assert reply.reward == reply.scores["token_cost"]
            assert reply.played == 2
            (future,) = reply.futures
            assert [message["role"] for message in future.messages] == ["user", "assistant"]
            assert future.scores.keys() == {"token_cost"}


def test_steps_are_recorded_so_many_apart_and_evaluation_is_not(
    tiny: str, tmp_path: Path, openings: DatasetDict
) -> None:
    options = {**GRPO, "max_steps": 5, "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 8}
    both = DatasetDict({"train": openings["train"], "eval": openings["train"].select(range(4))})
    train_grpo(
        policy(tiny), both, reward_function(futures=1), tmp_path / "out",
        trainer={**options, "eval_on_start": True}, samples=SamplesConfig(every=2, prompts=2, futures=0),
    )  # fmt: skip
    samples = list(read_samples(tmp_path / "out"))
    assert [one.step for one in samples] == [1, 1, 3, 3, 5, 5]
    assert all(len({one.task.id for one in samples if one.step == step}) == 2 for step in (1, 3, 5))
    assert all(len(one.replies) == 2 and not reply.futures for one in samples for reply in one.replies)
    train_grpo(
        policy(tiny), openings, reward_function(futures=1), tmp_path / "none",
        trainer={**GRPO, "max_steps": 1}, samples=SamplesConfig(prompts=0),
    )  # fmt: skip
    assert not (tmp_path / "none" / "samples.jsonl").exists()


def test_a_training_that_was_killed_has_each_step_once_after_it_was_resumed(tiny: str, tmp_path: Path) -> None:
    tasks = [party(str(number)).model_dump() for number in range(8)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    config = {
        "model": {"name": tiny, "dtype": "float32", "lora": {"r": 4}},
        "data": {"tasks": {"source": str(tmp_path / "tasks.jsonl")}},
        "reward": {"judges": [{"name": "token_cost"}], "futures": 1},
        "trainer": {**GRPO, "max_steps": 24, "save_strategy": "steps", "save_steps": 5},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "out"
    command = ["train", "grpo", "--config", str(tmp_path / "train.yaml"), "--out", str(out)]
    killed = subprocess.Popen(
        [sys.executable, "-m", "collab_agents", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while killed.poll() is None and not (out / "checkpoint-5" / "trainer_state.json").exists():
        time.sleep(0.005)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    before = list(read_samples(out))
    with open(out / "samples.jsonl", "a") as file:
        file.write(before[0].model_copy(update={"step": 23}).model_dump_json() + "\n" + '{"step": 24, "ta')
    assert len(list(read_samples(out))) == len(before) + 1
    assert run(*command, "--resume") == 0
    samples = list(read_samples(out))
    assert [one.step for one in samples] == [*range(1, 25)]
    assert samples[:5] == before[:5]


def test_a_damaged_sample_is_named(tmp_path: Path) -> None:
    sample = Sample(step=1, task=Task(id="a", goal="b"), prompt=[], replies=[])
    (tmp_path / "samples.jsonl").write_text(sample.model_dump_json() + '\n{"step": "x"}\n')
    with pytest.raises(RunDirectoryError, match=r"samples\.jsonl:2: step"):
        list(read_samples(tmp_path))


def test_tensorboard_shows_what_was_said_as_text(tiny: str, tmp_path: Path, openings: DatasetDict) -> None:
    options = {**GRPO, "max_steps": 2, "report_to": ["tensorboard"]}
    train_grpo(policy(tiny), openings, reward_function(), tmp_path / "out", trainer=options)
    (folder,) = {file.parent for file in (tmp_path / "out").rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    texts = {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors("samples/text_summary")}
    for sample in read_samples(tmp_path / "out"):
        assert f"    User: {sample.prompt[0]['content']}" in texts[sample.step]
        assert f"**Reply 2**: reward {sample.replies[1].reward:.3f}, token_cost " in texts[sample.step]
        assert "    User: " + sample.replies[1].futures[0].messages[0]["content"] in texts[sample.step]


def test_trls_table_of_completions_has_scores_and_futures_too(tiny: str, tmp_path: Path, openings: DatasetDict) -> None:
    options = {**GRPO, "max_steps": 1, "log_completions": True}
    train_grpo(policy(tiny), openings, reward_function(), tmp_path / "out", trainer=options)
    (file,) = (tmp_path / "out" / "completions").glob("*.parquet")
    table = pandas.read_parquet(file)
    assert len(table) == 4
    assert table["judges/token_cost"].tolist() == pytest.approx(table["multiturn_reward"].tolist())
    (sample,) = read_samples(tmp_path / "out")
    assert sample.replies[0].futures[0].messages[0]["content"] in table["future"][0]


def test_tables_have_a_row_a_reply_and_none_without_a_run() -> None:
    """By what W&B and Trackio have in common. Neither is installed here."""
    logged: list[dict[str, Any]] = []
    logger = SimpleNamespace(run=object(), Table=lambda dataframe: dataframe, log=logged.append)
    future = SampledFuture(messages=[{"role": "user", "content": "Thanks."}], reward=0.5)
    replies = [
        SampledReply(messages=[{"role": "assistant", "content": "a"}], reward=0.5, scores={"x": 0.5}, futures=[future]),
        SampledReply(messages=[{"role": "assistant", "content": "b"}], error="no"),
    ]
    sample = Sample(step=7, task=party(), prompt=[{"role": "user", "content": "say"}], replies=replies)
    log_table(logger, [sample])
    (entry,) = logged
    assert entry["train/global_step"] == 7
    assert entry["samples"]["reply"].tolist() == ["Assistant: a", "Assistant: b"]
    assert entry["samples"]["judges/x"].tolist()[0] == 0.5
    assert entry["samples"]["future"].tolist() == ["User: Thanks.", ""]
    log_table(SimpleNamespace(run=None), [sample])


def test_a_trainer_of_ones_own_records_too_and_says_why_a_reply_has_no_reward(
    tiny: str, tmp_path: Path, openings: DatasetDict
) -> None:
    def strict(conversation: Conversation, task: Task) -> float:
        if text_of(conversation.messages[1]):
            raise ValueError("no words, please")
        return 0.0

    reward = MultiturnRewardFunction(
        ScriptedUser(["go on"]),
        MultiturnReward({"strict": as_judge(strict)}),
        Lookahead(futures=1, window=0),
        assistant=GenericFakeChatModel(messages=iter([])),
    )
    args = GRPOConfig(str(tmp_path / "out"), use_cpu=True, max_steps=1, **GRPO)
    trainer = GRPOTrainer(tiny, reward_funcs=reward, args=args, train_dataset=openings["train"])
    record_samples(trainer, reward, SamplesConfig(prompts=8))
    trainer.train()
    replies = [reply for sample in read_samples(tmp_path / "out") for reply in sample.replies]
    assert len(replies) == 4
    for reply in replies:
        (future,) = reply.futures
        assert (reply.reward is None) == bool(reply.messages[0]["content"])
        assert ("no words, please" in future.reasons.get("strict", "")) == (reply.reward is None)
