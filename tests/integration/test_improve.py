"""The command `improve`: rounds that survive being killed, and what is refused before anything starts."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from benchmarks.process import ROOT
from collab_agents._internal.seeds import derive_seed
from collab_agents.runs.scorecard import Scorecard
from collab_agents.training.loop import read_loop
from collab_agents.training.made_from import read_made_from
from collab_agents.training.rounds import Rounds, read_rounds, write_rounds
from collab_agents.trajectories import read_trajectories
from tests.support.commands import COMMAND, run
from tests.support.tiny import tiny_model

MODEL = {"max_tokens": 8, "options": {"engine": "transformers", "dtype": "float32", "max_batch_size": 1}}
SCENE: dict[str, Any] = {
    "assistant": {"model": {"name": "openai:any", "temperature": 1.0, **MODEL}},
    "user": {"kind": "scripted", "lines": ["say"]},
    "judges": [{"name": "letters", "judge": "tests.support.letters:letters"}],
}
LOOKAHEAD = {"candidates": 4, "futures": 1, "window": 0, "max_exchanges": 1}
TRAINER = {
    "max_steps": 8,
    "per_device_train_batch_size": 4,
    "warmup_steps": 0,
    "lr_scheduler_type": "constant",
    "report_to": "none",
    "gradient_checkpointing": False,
    "save_strategy": "steps",
    "save_steps": 1,
}


def written(folder: Path, **changes: Any) -> Path:
    """The files of a loop: SFT of all weights in the first round, then DPO of an adapter."""
    run = {**SCENE, "lookahead": LOOKAHEAD, "tasks": {"source": "offline", "split": "train", "limit": 8}}
    files: dict[str, Any] = {
        "generate": run,
        "evaluate": {**SCENE, "lookahead": {"max_exchanges": 1}, "tasks": {"source": "offline", "limit": 8}},
        "dpo": {
            "model": {"name": "another", "lora": {"r": 4}},
            "data": {"runs": ["runs/another"]},
            "trainer": {**TRAINER, "learning_rate": 0.3},
        },
    }
    sft = {"model": {"lora": None}, "trainer": {**TRAINER, "learning_rate": 0.01}}
    loop: dict[str, Any] = {
        "rounds": 2,
        "patience": 2,
        "trajectories": "all",
        "model": str(folder / "tiny"),
        "generate": [
            {"config": "generate.yaml", "rounds": [1]},
            {"config": run},
        ],
        "train": [
            {"method": "sft", "config": sft, "rounds": [1]},
            {"method": "dpo", "config": "dpo.yaml", "rounds": [2]},
        ],
        "evaluate": "evaluate.yaml",
    }
    files["loop"] = loop
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content | changes.get(name, {})))
    return folder / "loop.yaml"


def begun(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """The files of a loop, and its folder after the check of its files, which takes a start of TRL."""
    config, out = written(folder, **changes), folder / "out"
    tiny_model(folder / "tiny")
    out.mkdir()
    write_rounds(Rounds(config=read_loop(config).dump(), tasks=[8, 8]), out)
    return config, out


class Looping:
    """A loop in a process of its own, in a process group of its own."""

    def __init__(self, config: Path, out: Path, *more: str) -> None:
        self.said = out.with_suffix(".txt")
        with self.said.open("w") as file:
            command = [*COMMAND, "improve", "--config", str(config), "--out", str(out), *more]
            self.process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, process_group=0)

    def wait_for(self, is_there: Callable[[], bool]) -> None:
        while not is_there():
            assert self.process.poll() is None, self.said.read_text()
            time.sleep(0.005)

    def end(self, number: int) -> int:
        os.killpg(self.process.pid, number)
        return self.process.wait(60)


@pytest.mark.timeout(900)  # It starts TRL nine times.
def test_a_loop_that_is_killed_again_and_again_ends_as_its_commands_do_by_hand(tmp_path: Path) -> None:
    config, out = begun(tmp_path)
    looping = Looping(config, out, "--resume")
    looping.wait_for((out / "evaluation/offline/round-0/seed-0/run.json").exists)
    code, _, error = run("improve", "--config", config, "--out", out, "--resume")
    assert (code, error) == (1, f"error: {out} is in use by another process; wait for it to end\n")
    assert looping.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert f"Stopped. What is done is in {out}; continue with --resume." in looping.said.read_text()

    looping = Looping(config, out, "--resume")
    looping.wait_for(lambda: any(out.glob("round-1/sft/checkpoint-*")))
    assert looping.end(signal.SIGKILL) == -signal.SIGKILL
    looping = Looping(config, out, "--resume")  # The step of the killed one may still be there.
    assert looping.process.wait(600) == 0, looping.said.read_text()

    record = read_rounds(out)
    check_record(record, out)
    check_by_hand(record, out, tmp_path / "again")
    check_resumed(config, out)


def check_record(record: Rounds, out: Path) -> None:
    """Each step was done once, each round began with the model of the one before, and the best was chosen."""
    assert [one.model for one in record.rounds] == [str(out.parent / "tiny"), "round-1/sft", "round-2/dpo-model"]
    assert [[step.name for step in one.steps] for one in record.rounds] == [
        ["evaluate"],
        ["generate", "sft", "evaluate"],
        ["generate", "dpo", "merge dpo", "evaluate"],
    ]
    files = [yaml.safe_load((out / f"round-{number}/generate.yaml").read_text()) for number in (1, 2)]
    names = [one["assistant"]["model"]["name"] for one in files]
    assert names == [f"local:{out.parent / 'tiny'}", f"local:{out / 'round-1/sft'}"]
    assert [one.get("seed", 0) for one in files] == [0, derive_seed(0, "round", 2)]
    pairs = record.rounds[2].data["dpo"]
    assert pairs == read_made_from(out / "round-2/dpo")
    assert pairs.gaps is not None
    assert pairs.rows == pairs.gaps.count > 0
    assert pairs.rows + sum(pairs.dropped.values()) == pairs.made_from == 16  # Of both rounds.

    rewards = [one.reward.value for one in record.rounds if one.reward]
    assert record.best == rewards.index(max(rewards)) == 2
    assert record.ended == "all 2 rounds are done"
    assert "<svg" in (out / "rounds.svg").read_text()
    assert (out / "best").resolve() == out / "round-2/dpo-model"
    for number, one in enumerate(record.rounds):
        (card,) = Scorecard.model_validate_json((out / f"round-{number}/scorecard.json").read_text()).sets
        assert one.sets["offline"].measures == card.sides[0].measures
        assert (one.difference is None) == (number == 0)
        if one.difference and card.difference:
            assert one.difference.value == card.difference["reward"].value


def check_by_hand(record: Rounds, out: Path, again: Path) -> None:
    """What was interrupted is what its command makes of the same file without interruption."""
    assert run("generate", "--config", out / "round-2/generate.yaml", "--out", again / "run")[0] == 0
    runs = [
        {one.task.id: one for one in read_trajectories(folder)}
        for folder in (out / "round-2/trajectories", again / "run")
    ]
    assert runs[0] == runs[1]
    assert run("train", "sft", "--config", out / "round-1/sft.yaml", "--out", again / "sft")[0] == 0
    weights = [load_file(folder / "model.safetensors") for folder in (out / "round-1/sft", again / "sft")]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    sides: list[str | Path] = ["--config", out / "round-2/round-2.yaml", "--against", out / "round-0/round-0.yaml"]
    assert run("evaluate", *sides, "--out", again / "evaluation")[0] == 0
    assert (again / "evaluation/scorecard.json").read_text() == (out / "round-2/scorecard.json").read_text()


def check_resumed(config: Path, out: Path) -> None:
    """A loop that has ended does nothing again, may be given less patience, and nothing else."""
    assert run("improve", "--config", config, "--out", out)[2] == (
        f"error: {out} already holds a loop: continue it with --resume, or choose another directory\n"
    )
    written(config.parent, loop={"patience": 1, "rounds": 3, "train": yaml.safe_load(config.read_text())["train"]})
    code, _, error = run("improve", "--config", config, "--out", out, "--resume")
    assert (code, error) == (1, f"error: {config}: train: round 3 has no training; add 3 to the rounds of one\n")
    written(config.parent, loop={"patience": 1})
    record = read_rounds(out)
    assert record.rounds[2].reward
    record.rounds[2].reward.value = 0.0  # As if it had been worse.
    record.choose_best()
    write_rounds(record, out)
    code, said, error = run("improve", "--config", config, "--out", out, "--resume")
    assert (code, error) == (0, "")
    assert "The loop has ended: 1 round without a better held-out reward. Round 1 is the best" in said
    assert (out / "best").resolve() == out / "round-1/sft"
    written(config.parent, evaluate={"seed": 1})
    code, _, error = run("improve", "--config", config, "--out", out, "--resume")
    assert code == 1
    assert "was made with evaluate.seed = None, and now it is 1" in error


APP = {"assistant": {"app": "my:app"}, "reward": {"judges": [{"name": "token_cost"}]}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loop": {"round": 4}}, "loop.yaml: round: unknown field; did you mean 'rounds'?"),
        ({"loop": {"patience": 0}}, "loop.yaml: patience: input should be greater than 0, got '0'"),
        ({"loop": {"trajectories": "some"}}, "loop.yaml: trajectories: input should be 'round' or 'all', got 'some'"),
        ({"loop": {"evaluate": "none.yaml"}}, "none.yaml: No such file or directory"),
        ({"loop": {"rounds": 3}}, "loop.yaml: train: round 3 has no training; add 3 to the rounds of one"),
        (
            {"loop": {"generate": [{"config": "generate.yaml", "round": [1]}]}},
            "loop.yaml: generate.0.round: unknown field",
        ),
        (
            {"loop": {"generate": [{"config": "generate.yaml", "rounds": [1]}]}},
            "loop.yaml: generate: round 2 has none; add 2 to the rounds of one",
        ),
        (
            {"loop": {"generate": None}},
            "loop.yaml: generate is missing: {loop}: train.0.config learns from trajectories",
        ),
        ({"generate": {"lookahed": {}}}, "generate.yaml: lookahed: unknown field; did you mean 'lookahead'?"),
        (
            {"evaluate": {"assistant": {"app": "my:app"}}},
            "evaluate.yaml: assistant.app: what is trained is a chat model; give assistant.model instead",
        ),
        (
            {"generate": {"assistant": {"model": {"name": "x", "base_url": "http://localhost"}}}},
            "generate.yaml: assistant.model.base_url: the model that is trained is played here; leave it out",
        ),
        (
            {"loop": {"train": [{"method": "grpo", "config": APP}]}},
            "train.0.config: assistant: a loop generates with and evaluates a chat model alone: train an app by",
        ),
        ({"dpo": {"data": {"run": ["x"]}}}, "dpo.yaml: data.run: unknown field; did you mean 'runs'?"),
        (
            {"dpo": {"trainer": {"learning_rat": 1}}},
            "dpo.yaml: trainer.learning_rat: DPOConfig has no such key; did you mean 'learning_rate'?",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_one_sentence_before_anything_starts(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    config = written(tmp_path, **changes)
    tiny_model(tmp_path / "tiny")
    code, _, error = run("improve", "--config", config, "--out", tmp_path / "out")
    assert code == 1
    assert error.startswith(f"error: {tmp_path}/")
    assert reason.format(loop=config) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out/improve.json").exists()
    assert not any(tmp_path.glob("out/round-*"))


def test_a_step_in_which_too_much_failed_ends_the_loop(tmp_path: Path) -> None:
    config, out = begun(tmp_path, evaluate={"user": {"kind": "tests.support.letters:Leaves"}})
    looping = Looping(config, out, "--resume")
    assert looping.process.wait(600) == 1
    said = looping.said.read_text()
    assert "error: round 0: 1 of 8 failed in evaluation, and most_failures is 0.05: see what is wrong above" in said
    assert read_rounds(out).rounds == []
