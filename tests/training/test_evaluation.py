"""A model in training plays held-out conversations in between: the best step is kept, and the training is the same."""

import json
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import indent
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerState
from trl import SFTConfig, SFTTrainer

from collab_agents import Lookahead, TaskSet, read_trajectories
from collab_agents.errors import ConfigError
from collab_agents.judges import Conversation, as_judge, token_cost
from collab_agents.rewards import MultiturnReward
from collab_agents.runs.scorecard import Scorecard
from collab_agents.tasks import Task
from collab_agents.training import (
    HeldOutEvaluation,
    LoraSection,
    MultiturnRewardFunction,
    PolicyConfig,
    train_dpo,
    train_grpo,
    train_online_dpo,
    train_ppo,
    train_sft,
)
from collab_agents.training.loggers import cell_of, log_conversations
from collab_agents.training.loop import read_loop
from collab_agents.trajectories import Trajectory
from collab_agents.users import AgendaUser, ScriptedUser
from tests.support.commands import exit_code as run
from tests.support.letters import Leaves
from tests.support.tasks import party

ASK = [{"role": "user", "content": "say"}]
QUICK = {
    "learning_rate": 1e-2,
    "logging_steps": 10,
    "report_to": "none",
    "gradient_checkpointing": False,
    "bf16": False,
    "disable_tqdm": True,
    "per_device_train_batch_size": 2,
}
SAMPLING = {"max_tokens": 8}
METHODS = {"sft": train_sft, "dpo": train_dpo, "online-dpo": train_online_dpo, "grpo": train_grpo, "ppo": train_ppo}


@pytest.fixture(scope="module")
def words() -> DatasetDict:
    said = [{"role": "assistant", "content": "eeee"}]
    return DatasetDict({"train": Dataset.from_list([{"messages": [*ASK, *said]}] * 16)})


def policy(name: str, *, dropout: float = 0.0) -> PolicyConfig:
    return PolicyConfig(name=name, dtype="float32", lora=LoraSection(r=4, dropout=dropout))


def futures_reward() -> MultiturnRewardFunction:
    judges = {"token_cost": token_cost(rate=0.01)}
    return MultiturnRewardFunction(AgendaUser(), MultiturnReward(judges), Lookahead(futures=1, window=1), max_tokens=8)


def held_out(*names: str, judge: Callable[[Conversation, Task], float] | None = None) -> list[TaskSet]:
    """Sets of two tasks each, whose users open with a line."""
    found = {"judge": as_judge(judge)} if judge else {"token_cost": token_cost(rate=0.01)}
    tasks = [Task(id=f"held-out-{number}", goal="You want an e.") for number in range(2)]
    return [
        TaskSet(name, tasks, ScriptedUser(["say", "go on"]), MultiturnReward(found), max_exchanges=2)
        for name in names or ("letters",)
    ]


def giving(*rewards: float) -> Callable[[Conversation, Task], float]:
    """A judge that gives both conversations of each evaluation in turn one of these rewards."""
    judged: list[str] = []

    def judge(conversation: Conversation, task: Task) -> float:
        judged.append(task.id)
        return rewards[(len(judged) - 1) // 2]

    return judge


def log_of(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "training_log.json").read_text())


def logged(out: Path, name: str = "heldout/reward") -> dict[int, float]:
    return {entry["step"]: entry[name] for entry in log_of(out) if name in entry}


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", METHODS)
def test_with_every_trainer_conversations_are_played_before_between_and_after(
    tiny: str, tmp_path: Path, openings: DatasetDict, words: DatasetDict, method: str
) -> None:
    train: Any = METHODS[method]
    chosen, rejected = ([{"role": "assistant", "content": letter}] for letter in "eq")
    pairs = Dataset.from_list([{"prompt": ASK, "chosen": chosen, "rejected": rejected}] * 8)
    data = {"sft": words, "dpo": DatasetDict({"train": pairs})}.get(method, openings)
    more = {
        "online-dpo": {"max_new_tokens": 8},
        "grpo": {"num_generations": 2, "max_completion_length": 8},
        "ppo": {"num_iterations": 1, "max_completion_length": 8},
    }.get(method, {})
    rewards = [] if method in ("sft", "dpo") else [futures_reward()]
    out = tmp_path / "out"
    train(
        policy(tiny), data, *rewards, out, trainer={**QUICK, **more, "max_steps": 2},
        evaluation=HeldOutEvaluation(held_out(), every=1, sampling=SAMPLING),
    )  # fmt: skip
    rewards_of_steps = logged(out)
    assert list(rewards_of_steps) == [0, 1, 2]
    for step, reward in rewards_of_steps.items():
        folder = out / "evaluations" / f"step-{step}"
        (scores,) = Scorecard.model_validate_json((folder / "scorecard.json").read_text()).sets
        measures = scores.sides[0].measures
        assert measures["reward"].value == reward
        assert measures["reward"].low == logged(out, "heldout/reward/low")[step] <= reward
        assert measures.keys() == {
            name.removeprefix("heldout/") for entry in log_of(out) for name in entry if name.startswith("heldout/")
        } - {"failed", "best_step", *(f"{name}/{end}" for name in measures for end in ("low", "high"))}
        played = list(read_trajectories(folder / "letters" / "policy" / "seed-0"))
        assert {one.task.id for one in played} == {"held-out-0", "held-out-1"}
        assert all(one.usage.by_role()["assistant"].output_tokens <= 16 for one in played)
        assert (out / f"checkpoint-{step}").is_dir()


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_a_training_is_the_same_with_evaluations_and_without(
    tiny: str, tmp_path: Path, openings: DatasetDict, words: DatasetDict, method: str
) -> None:
    def draw(conversation: Conversation, task: Task) -> float:
        import random

        return random.random() + float(torch.rand(()))

    for name in ("without", "with"):
        evaluation = HeldOutEvaluation(
            held_out(judge=draw), every=1, load_best=False, sampling={**SAMPLING, "temperature": 1.0}
        )
        options: dict[str, Any] = {"evaluation": evaluation} if name == "with" else {}
        trainer = {**QUICK, "max_steps": 2, "gradient_checkpointing": True, "logging_steps": 2}
        if method == "sft":
            train_sft(policy(tiny, dropout=0.3), words, tmp_path / name, trainer=trainer, **options)
        else:
            trainer |= {"num_generations": 2, "max_completion_length": 8}
            train_grpo(
                policy(tiny, dropout=0.3), openings, futures_reward(), tmp_path / name, trainer=trainer, **options
            )
    assert same(adapter(tmp_path / "without"), adapter(tmp_path / "with"))
    assert not same(adapter(tmp_path / "with"), adapter(tmp_path / "with" / "checkpoint-1"))
    kept = [
        [{key: value for key, value in entry.items() if "time" not in key} for entry in log_of(tmp_path / name)[:-1]]
        for name in ("without", "with")
    ]
    assert kept[0] == [entry for entry in kept[1] if "heldout/failed" not in entry]


def test_the_best_step_is_the_model_at_the_end_and_the_training_stops_early(
    tiny: str, tmp_path: Path, words: DatasetDict, openings: DatasetDict
) -> None:
    def evaluation(**options: Any) -> HeldOutEvaluation:
        judge = giving(0.1, 0.5, 0.9, 0.3, 0.9, 1.0)
        return HeldOutEvaluation(held_out(judge=judge), every=1, patience=2, sampling=SAMPLING, **options)

    out = tmp_path / "last"
    trainer = {**QUICK, "max_steps": 6}
    train_sft(policy(tiny), words, out, trainer=trainer, evaluation=evaluation(load_best=False))
    assert logged(out) == {0: 0.1, 1: 0.5, 2: 0.9, 3: 0.3, 4: 0.9}
    assert logged(out, "heldout/best_step") == {0: 0, 1: 1, 2: 2, 3: 2, 4: 2}
    assert same(adapter(out), adapter(out / "checkpoint-4"))
    assert not same(adapter(out), adapter(out / "checkpoint-2"))
    card = (out / "README.md").read_text()
    assert "The best held-out reward, 0.900 (95% interval 0.900 to 0.900), is that of step 2, and this is" in card
    assert "the model of step 4. Training ended after 2 evaluations without a better one." in card
    assert "| reward | 0.9 | 0.9 to 0.9 |" in card

    out = tmp_path / "best"
    trainer |= {"num_iterations": 1, "max_completion_length": 8, "save_total_limit": 1}
    train_ppo(policy(tiny), openings, futures_reward(), out, trainer=trainer, evaluation=evaluation())
    assert list(logged(out)) == [0, 1, 2, 3, 4]
    assert [one.name for one in out.glob("checkpoint-*")] == ["checkpoint-2"]
    for file in ("adapter_model.safetensors", "value_head.safetensors"):
        assert same(load_file(out / file), load_file(out / "checkpoint-2" / file))
    assert "is that of step 2, whose model this is." in (out / "README.md").read_text()


def test_a_training_that_makes_nothing_better_ends_with_the_model_it_began_with(
    tiny: str, tmp_path: Path, words: DatasetDict
) -> None:
    learner = PolicyConfig(name=tiny, dtype="float32", lora=None)
    train_sft(
        learner, words, tmp_path / "out", trainer={**QUICK, "max_steps": 6},
        evaluation=HeldOutEvaluation(
            held_out(judge=giving(0.5, 0.4, 0.4)), every=1, patience=2, sampling=SAMPLING
        ),
    )  # fmt: skip
    assert list(logged(tmp_path / "out")) == [0, 1, 2]
    weights, before, last = (
        load_file(Path(folder, "model.safetensors"))
        for folder in (tmp_path / "out", tiny, tmp_path / "out" / "checkpoint-2")
    )
    assert same(weights, before)
    assert not same(weights, last)


FORK = multiprocessing.get_context("fork")  # To start anew would take the time to load TRL.


def train_in_child(command: list[str]) -> None:
    torch.set_num_threads(1)  # The threads of this process are not there.
    run(*command)


KILLED = """
import os, signal
from pathlib import Path

def letters(conversation, task):
    said = "".join(conversation.assistant_texts())
    with open("judged.txt", "a") as file:
        file.write(task.id + "\\n")
    if Path("fatal").exists() and len(Path("judged.txt").read_text().split()) == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return said.count("e") / max(1, len(said))
"""


def test_a_training_that_was_killed_in_an_evaluation_goes_on_with_it(
    tiny: str, tmp_path: Path, words: DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in words["train"]))
    tasks = [Task(id=f"held-out-{number}", goal="You want an e.").model_dump() for number in range(4)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    (tmp_path / "fatal.py").write_text(KILLED)
    (tmp_path / "fatal").touch()
    scene = {
        "assistant": {"model": {"name": "openai:any", "max_tokens": 8, "temperature": 1.0}},
        "user": {"kind": "scripted", "lines": ["say"]},
        "judges": [{"name": "letters", "judge": "fatal:letters"}],
        "lookahead": {"max_exchanges": 1},
        "limits": {"max_concurrency": 1},
        "tasks": {"source": "tasks.jsonl"},
    }
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(scene))
    config = {
        "model": {"name": tiny, "dtype": "float32", "lora": {"r": 4}},
        "data": {"dataset": "rows.jsonl"},
        "evaluation": {"config": "eval.yaml", "every": 2, "patience": 10, "batch_size": 1},
        "trainer": {**QUICK, "max_steps": 6},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    command = ["train", "sft", "--config", "train.yaml", "--out"]
    killed = FORK.Process(target=train_in_child, args=([*command, "out"],))
    monkeypatch.chdir(tmp_path)
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert len((tmp_path / "judged.txt").read_text().split()) == 11
    (tmp_path / "fatal").unlink()
    assert run(*command, "out", "--resume") == 0
    # Of the 16 conversations, the 11th was played twice, since it was not finished when the process was killed.
    judged = (tmp_path / "judged.txt").read_text().split()
    assert judged == [f"held-out-{number}" for number in [*range(4)] * 2 + [0, 1, 2] + [2, 3] + [*range(4)]]
    state = TrainerState.load_from_json(str(tmp_path / "out" / "checkpoint-6" / "trainer_state.json"))
    assert [entry["step"] for entry in state.log_history if "heldout/reward" in entry] == [0, 2, 4, 6]

    (tmp_path / "judged.txt").write_text("")
    assert run(*command, "whole") == 0
    assert logged(tmp_path / "out") == logged(tmp_path / "whole")
    assert same(adapter(tmp_path / "out"), adapter(tmp_path / "whole"))
    assert len((tmp_path / "judged.txt").read_text().split()) == 16


def test_loggers_get_every_measure_and_some_conversations(tiny: str, tmp_path: Path, words: DatasetDict) -> None:
    out = tmp_path / "out"
    train_sft(
        policy(tiny), words, out, trainer={**QUICK, "max_steps": 2, "report_to": ["tensorboard"]},
        evaluation=HeldOutEvaluation(held_out("one", "two"), every=2, conversations=1, sampling=SAMPLING),
    )  # fmt: skip
    (folder,) = {file.parent for file in out.rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    for name in ("heldout/reward", "heldout/reward/high", "heldout/two/token_cost", "heldout/one/exchanges/low"):
        shown = {event.step: event.value for event in events.Scalars(f"train/{name}")}
        assert shown == pytest.approx(logged(out, name))
        assert list(shown) == [0, 2]
    first, second = (logged(out, f"heldout/{name}/reward")[2] for name in ("one", "two"))
    assert logged(out)[2] == pytest.approx((first + second) / 2)
    texts = {
        event.step: event.tensor_proto.string_val[0].decode()
        for event in events.Tensors("heldout/conversations/text_summary")
    }
    for step, text in texts.items():
        (played,) = [
            one
            for one in read_trajectories(out / "evaluations" / f"step-{step}" / "two" / "policy" / "seed-0")
            if one.task.id == "held-out-0"
        ]
        assert text.count("**Task** `held-out-0`: reward ") == 2
        assert "held-out-1" not in text
        assert indent(cell_of(played.messages), "    ", lambda line: True) in text
    assert list(texts) == [0, 2]


def test_tables_have_a_row_a_conversation() -> None:
    """By what W&B and Trackio have in common. Neither is installed here."""
    logged: list[dict[str, Any]] = []
    logger = SimpleNamespace(run=object(), Table=lambda dataframe: dataframe, log=logged.append)
    played = Trajectory(task=party(), messages=ASK, stopped="user", turns=[], reward=0.5, scores={"x": 0.5})
    log_conversations(logger, [played], 7)
    (entry,) = logged
    assert entry["train/global_step"] == 7
    assert entry["heldout/conversations"].to_dict("records") == [
        {"step": 7, "task": "party", "persona": "", "conversation": "User: say", "reward": 0.5, "judges/x": 0.5}
    ]


def test_a_trainer_of_ones_own_plays_with_a_cache_and_is_as_it_was(
    tiny: str, tmp_path: Path, words: DatasetDict
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    lengths: list[int] = []
    modes: set[bool] = set()

    def watch(module: torch.nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled():
            lengths.append(kwargs["input_ids"].shape[1])
            modes.add(module.training)

    args = SFTConfig(str(tmp_path / "out"), use_cpu=True, save_strategy="no", max_steps=2, **QUICK)
    args.gradient_checkpointing = True
    trainer = SFTTrainer(
        model, args=args, train_dataset=words["train"], processing_class=AutoTokenizer.from_pretrained(tiny)
    )
    model.model.register_forward_pre_hook(watch, with_kwargs=True)
    before = model.generation_config.to_dict(), model.config.to_dict()
    evaluation = HeldOutEvaluation(held_out(), every=1, load_best=False, sampling=SAMPLING)
    with pytest.raises(ConfigError, match=r"call bind\(trainer\) instead"):
        evaluation.on_train_begin(args, trainer.state, trainer.control)
    evaluation.bind(trainer)
    trainer.train()
    assert (model.generation_config.to_dict(), model.config.to_dict()) == before
    assert model.training
    assert modes == {False}
    assert lengths.count(1) >= len(lengths) * 3 / 4
    assert [entry["step"] for entry in trainer.state.log_history if "heldout/reward" in entry] == [0, 1, 2]
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_conversations_that_fail_are_counted_and_do_not_end_the_training(
    tiny: str, tmp_path: Path, words: DatasetDict, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = [Task(id="held-out-003", goal="You want an e.")]
    sets = [TaskSet("letters", tasks, Leaves(), MultiturnReward({"token_cost": token_cost()}))]
    train_sft(
        policy(tiny), words, tmp_path / "out", trainer={**QUICK, "max_steps": 1},
        evaluation=HeldOutEvaluation(sets, every=1, patience=1, sampling=SAMPLING),
    )  # fmt: skip
    assert logged(tmp_path / "out", "heldout/failed") == {0: 1, 1: 1}
    assert logged(tmp_path / "out") == {}
    assert "step 1: 1 held-out conversations could not be finished: see failures.jsonl in " in caplog.text


SCENE: dict[str, Any] = {
    "user": {"kind": "scripted", "lines": ["say"]},
    "judges": [{"name": "token_cost"}],
    "tasks": {"source": "offline", "limit": 2},
}


@pytest.mark.parametrize(
    ("evaluation", "trainer", "said_so"),
    [
        ({"config": SCENE, "evry": 1}, {}, "evaluation.evry: unknown field; did you mean 'every'?"),
        ({"config": SCENE, "every": 0}, {}, "evaluation.every: input should be greater than 0, got '0'"),
        ({"every": 2}, {}, "evaluation.config: field required"),
        ({"config": "nowhere.yaml"}, {}, "nowhere.yaml: No such file or directory"),
        ({"config": {**SCENE, "judges": []}}, {}, "evaluation.config: judges: the tasks 'offline' have none"),
        ({"config": {**SCENE, "assistant": {"app": "my:app"}}}, {}, "what is trained is a chat model"),
        ({"config": {**SCENE, "limits": {"max_calls": 9}}}, {}, "limits.max_calls: the evaluations of a training have"),
        ({"config": {**SCENE, "tasks": {"source": "none"}}}, {}, "none"),
        ({"config": {**SCENE, "assistant": {"model": {"options": {"top_k": 1}}}}}, {}, "did you mean 'top_p'"),
        ({"config": SCENE}, {"save_strategy": "no"}, "trainer.save_strategy: the best model is loaded from its"),
        ({"config": SCENE}, {"metric_for_best_model": "loss"}, "the held-out evaluation chooses the best model"),
        ({"config": SCENE}, {"save_strategy": "best"}, "trainer.save_strategy: the held-out evaluation chooses"),
    ],
)  # fmt: skip
def test_bad_settings_are_one_sentence_before_the_first_step(
    tiny: str,
    tmp_path: Path,
    words: DatasetDict,
    evaluation: dict[str, Any],
    trainer: dict[str, Any],
    said_so: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in words["train"]))
    config = {
        "model": {"name": tiny},
        "data": {"dataset": str(tmp_path / "rows.jsonl")},
        "evaluation": evaluation,
        "trainer": trainer,
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    assert run("train", "sft", "--config", tmp_path / "train.yaml", "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err.strip()
    assert said_so in error
    assert error.count("\n") == 0
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_a_model_that_is_spread_over_processes_is_refused() -> None:
    for state in ({"is_fsdp_enabled": True}, {"is_fsdp_enabled": False, "zero": 3}):
        plugin = SimpleNamespace(zero_stage=state.get("zero", 0))
        accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))
        trainer: Any = SimpleNamespace(accelerator=accelerator, is_fsdp_enabled=state["is_fsdp_enabled"])
        with pytest.raises(ConfigError, match="evaluation: a model that is spread over processes"):
            HeldOutEvaluation(held_out()).bind(trainer)


def test_a_training_of_a_loop_has_the_file_beside_its_own(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "held-out.yaml").write_text(yaml.safe_dump(SCENE))
    sft = {"evaluation": {"config": "held-out.yaml", "every": 5}}
    (tmp_path / "files" / "sft.yaml").write_text(yaml.safe_dump(sft))
    loop = {
        "generate": SCENE,
        "train": [{"method": "sft", "config": "files/sft.yaml"}],
        "evaluate": SCENE,
        "rounds": 1,
    }
    (tmp_path / "loop.yaml").write_text(yaml.safe_dump(loop))
    (training,) = read_loop(tmp_path / "loop.yaml").trainings
    assert training.raw["evaluation"] == {"config": SCENE, "every": 5}
    broken = {"evaluation": {"config": {**SCENE, "judge": []}}}
    (tmp_path / "files" / "sft.yaml").write_text(yaml.safe_dump(broken))
    with pytest.raises(ConfigError, match=r"sft\.yaml: evaluation\.config: judge: unknown field"):
        read_loop(tmp_path / "loop.yaml")
