"""Value models: learned from the trees of runs, honest about how good they are, and kept from their own tasks."""

import asyncio
import random
from pathlib import Path

import numpy as np
import pytest

from collab_agents.cli.app import run_command
from collab_agents.cli.value import report
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.tasks import Task
from collab_agents.training import train_value
from collab_agents.trajectories import Candidate, Future, JsonlStore, Trajectory, Turn
from collab_agents.value import load_value
from tests.support.tiny import tiny_model
from tests.support.trajectories import said

WORDS = "the cat was seen on long road and it is red with one ear in may".split()
NOISE = 0.1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("model"))


def sentence(chance: random.Random, end: str) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(4, 9))) + 8 * end


def candidate(text: str, true: float, chance: random.Random, futures: int) -> Candidate:
    rewards = [true + chance.gauss(0, NOISE) for _ in range(futures)]
    return Candidate(
        messages=[said("assistant", text)],
        reward=sum(rewards) / futures,
        futures=[Future(reward=one, scores={}) for one in rewards],
    )


def a_run(folder: Path, worth: float, *, tasks: int = 40, futures: int = 3) -> Path:
    """A run with one turn a task, in which a reply that is a question is worth so much more than one that is not."""
    folder.mkdir()
    store = JsonlStore(folder / "trajectories.jsonl")
    for number in range(tasks):
        chance = random.Random(number)
        ends = [chance.choice([".", "?"]) for _ in range(4)]
        turn = Turn(
            prompt=[said("user", sentence(chance, "."))],
            chosen=0,
            candidates=[
                candidate(sentence(chance, end), worth * (end == "?") + chance.gauss(0, 0.02) + number, chance, futures)
                for end in ends
            ],
        )
        task = Task(id=f"task-{number}", goal="a text")
        store.append(Trajectory(task=task, messages=[], stopped="user", turns=[turn]))
    return folder


async def test_it_expects_of_unseen_replies_what_those_that_it_learned_from_were_worth(
    tmp_path: Path, model: str
) -> None:
    about = train_value([a_run(tmp_path / "run", 0.4)], tmp_path / "value", model=model)
    assert about.explained > 0.7
    assert about.components.within == pytest.approx(NOISE**2, rel=0.3)
    assert about.worth is not None
    assert about.worth > 1
    assert 0 < about.explained_low < about.explained < about.explained_high <= 1
    assert (about.turns, about.candidates, len(about.tasks)) == (40, 160, 40)
    value = load_value(tmp_path / "value")
    chance = random.Random(-1)
    errors, spreads = [], []
    for _ in range(30):
        ends = [".", "?", "."]
        replies = [[said("assistant", sentence(chance, end))] for end in ends]
        found = await value.expect([said("user", sentence(chance, "."))], replies)
        assert max(found, key=lambda one: one.mean) is found[1]
        errors += [found[1].mean - found[0].mean - 0.4, found[1].mean - found[2].mean - 0.4]
        spreads += [found[1].variance + found[0].variance, found[1].variance + found[2].variance]
    assert 0.2 < np.mean(np.square(errors)) / np.mean(spreads) < 2, "as wrong as the variances say"


def test_it_learns_from_fewer_candidates_than_features(tmp_path: Path, model: str) -> None:
    about = train_value([a_run(tmp_path / "run", 0.4, tasks=12)], tmp_path / "value", model=model)
    assert about.candidates < 64
    assert about.explained > 0.4


def test_it_says_that_it_is_of_no_use_if_replies_do_not_tell_rewards(tmp_path: Path, model: str) -> None:
    run = a_run(tmp_path / "run", 0.0)
    about = train_value([run], tmp_path / "value", model=model)
    assert about.explained_low <= 0
    assert "which cannot be told from nothing: learn from more tasks or more futures." in report(about)


async def test_the_same_turn_gets_the_same_expectations_alone_and_among_others(tmp_path: Path, model: str) -> None:
    train_value([a_run(tmp_path / "run", 0.4)], tmp_path / "value", model=model, layers=1)
    value = load_value(tmp_path / "value")
    chance = random.Random(5)
    turns = [
        ([said("user", sentence(chance, "."))], [[said("assistant", sentence(chance, ".?"[n % 2]))] for n in range(3)])
        for _ in range(8)
    ]
    alone = [await value.expect(*turn) for turn in turns]
    assert await asyncio.gather(*(value.expect(*turn) for turn in turns)) == alone


def test_it_refuses_the_tasks_that_it_learned_from(tmp_path: Path, model: str) -> None:
    train_value([a_run(tmp_path / "run", 0.4)], tmp_path / "value", model=model)
    value = load_value(tmp_path / "value")
    assert value.problem_with(Task(id="task-3", goal="a text")) == "the value model learned from it"
    assert value.problem_with(Task(id="task-40", goal="a text")) is None


def test_the_language_model_can_be_fine_tuned_first(tmp_path: Path, model: str) -> None:
    run = a_run(tmp_path / "run", 0.4)
    about = train_value([run], tmp_path / "value", model=model, fine_tune=True, trainer={"max_steps": 2})
    assert about.fine_tuned
    assert 10 <= about.turns < 30, "about half of the tasks taught the reward model"
    assert len(about.tasks) == 40, "and none of them may be judged"
    moved = tmp_path / "moved"
    (tmp_path / "value").rename(moved)
    assert load_value(moved).about == about


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ({"tasks": 9}, "a value model needs at least 10 tasks with two candidates a turn that have rewards, got 9"),
        ({"futures": 1}, "a value model needs two futures a candidate or more, with rewards that differ"),
    ],
)
def test_too_little_to_learn_from_is_said(tmp_path: Path, model: str, size: dict[str, int], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        train_value([a_run(tmp_path / "run", 0.4, **size)], tmp_path / "value", model=model)
    assert not (tmp_path / "value").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path, model: str) -> None:
    (tmp_path / "value").mkdir()
    (tmp_path / "value" / "mine.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="value is not empty: choose another directory"):
        train_value([tmp_path / "run"], tmp_path / "value", model=model)


def test_a_folder_without_a_value_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no value.json; choose a folder that collab-agents train value wrote"):
        load_value(tmp_path)
    (tmp_path / "value.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"value.json: model: field required"):
        load_value(tmp_path)


def test_the_command_trains_a_value_and_a_run_uses_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = """
assistant: {model: {name: "local:%s", max_tokens: 32, options: {engine: transformers}}}
user: {kind: agenda}
judges: [{name: fact_coverage}, {name: token_cost, options: {rate: 0.01}}]
lookahead: {candidates: 4, futures: 2, window: 1, max_exchanges: 1%s}
tasks: {source: offline, split: %s, limit: 16}
"""
    Path("learn.yaml").write_text(config % (model, "", "train"))
    Path("again.yaml").write_text(config % (model, ", value: value", "train"))
    Path("play.yaml").write_text(config % (model, ", value: value, allocation: adaptive, max_futures: 3", "test"))
    assert run_command(["generate", "--config", "learn.yaml", "--out", "learn"]) == 0
    assert run_command(["train", "value", "--from", "learn", "--out", "value", "--model", model]) == 0
    said_so = capfd.readouterr().out
    assert "Learned from 64 candidates in 16 turns. On tasks that it did not see, it explains" in said_so
    assert run_command(["generate", "--config", "again.yaml", "--out", "again"]) == 1
    assert "the value model learned from it; play other tasks" in capfd.readouterr().err
    assert run_command(["generate", "--config", "play.yaml", "--out", "play"]) == 0
    played = [Trajectory.model_validate(line) for _, line in JsonlStore("play/trajectories.jsonl").lines()]
    assert len(played) == 16
    assert all(one.expected for each in played for turn in each.turns for one in turn.candidates)
