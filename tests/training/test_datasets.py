"""Datasets for training: rows for each method, the published forms, splits, and how they are saved."""

import json
import shutil
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
from datasets import Dataset, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from collab_agents._internal.rows import read_rows
from collab_agents._internal.seeds import derive_seed
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.training import (
    Made,
    from_published,
    preference_rows,
    prompt_rows,
    read_all,
    read_dataset,
    save_rows,
    sft_rows,
    split_by_task,
    to_flat,
    to_nested,
)
from collab_agents.training.datasets import persona_of_row, task_of_row
from collab_agents.trajectories import Future, JsonlStore, Trajectory
from tests.support.commands import exit_code as run
from tests.support.noisy import played, synthetic
from tests.support.trajectories import said, trajectory

NESTED: list[dict[str, Any]] = [
    {
        "conv_id": "7",
        "single_turn_prompt": "write a poem",
        "single_turn_completion": "roses",
        "single_turn_metadata": {"author": "A"},
        "turns": [
            {
                "prompt": [said("user", "a poem?")],
                "responses": [
                    {
                        "completion": "about what?",
                        "score": 0.9,
                        "sessions": [
                            [said("user", "a poem?"), said("assistant", "about what?"), said("user", "roses")]
                        ],
                        "rewards": {"bleu": [0.8], "MR": [0.9]},
                    },
                    {"completion": "violets", "score": 0.1},
                ],
            },
            {
                "prompt": [said("user", "a poem?"), said("assistant", "about what?"), said("user", "roses")],
                "responses": [{"completion": "roses are red", "score": 0.7}, {"completion": "no", "score": 0.2}],
            },
        ],
    }
]


def test_sft_takes_the_best_conversation_of_each_task_and_counts_the_rest() -> None:
    made = sft_rows(
        [
            trajectory("a", 0.1, final=0.2, bleu=0.9),
            trajectory("a", 0.1, final=0.8, bleu=0.7),
            trajectory("b", 0.1, final=0.9, bleu=0.1),
            trajectory("c", 0.1, final=None),
        ],
        lower_bounds={"bleu": 0.5},
    )
    assert [(row["task_id"], row["reward"]) for row in made.dataset()] == [("a", 0.8)]
    assert made.dataset()[0]["messages"][-1] == said("assistant", "a 0")
    assert made.dropped == {
        "conversations without a reward": 1,
        "conversations below the bound of 0.5 for bleu": 1,
        "conversations that are not their task's best": 1,
    }
    assert made.report().startswith("1 sft rows of 4 trajectories; left out: 1 conversations")


def test_sft_keeps_a_share_of_the_tasks_those_with_the_best_conversations() -> None:
    finals = {"a": 0.1, "b": 0.5, "c": 0.3, "d": 0.5, "e": 0.2}
    conversations = [trajectory(name, 0.1, final=final) for name, final in finals.items()]
    made = sft_rows([*conversations, trajectory("c", 0.1, final=0.4)], best_share=0.5)
    assert [(row["task_id"], row["reward"]) for row in made.dataset()] == [("b", 0.5), ("d", 0.5), ("c", 0.4)]
    assert made.dropped == {
        "conversations that are not their task's best": 1,
        "tasks beyond the best share of 0.5": 2,
    }
    for share in (0.0, 1.5):
        with pytest.raises(ConfigError, match=f"best_share must be above 0 and at most 1, got {share}"):
            sft_rows(conversations, best_share=share)


def test_preferences_are_best_against_worst_or_all_pairs_beyond_a_gap() -> None:
    one = trajectory("a", 0.5, None, 0.9, 0.1)
    made = preference_rows([one])
    assert [(row["score_chosen"], row["score_rejected"]) for row in made.dataset()] == [(0.9, 0.1)] * 2
    assert made.dataset()[0]["prompt"] == [said("user", "do a")]
    assert made.dataset()[0]["chosen"] == [said("assistant", "a 2")]
    gaps = {row["score_chosen"] - row["score_rejected"] for row in preference_rows([one], pairs="all").dataset()}
    assert {round(gap, 6) for gap in gaps} == {0.8, 0.4}
    assert len(preference_rows([one], pairs="all", minimum_gap=0.5)) == 2
    assert made.dropped["candidates without a reward"] == 2


def test_pairs_by_probability_are_as_often_right_as_they_say() -> None:
    made, true = synthetic(600, between=0.3, within=0.5)
    qualities = {(one.task.id, number): true.pop(0) for one in made for number in range(2)}
    for one in made:
        for number, turn in enumerate(one.turns):
            turn.prompt[0]["content"] = f"turn {number}"

    def right(row: dict[str, Any]) -> bool:
        of = qualities[row["task_id"], int(row["prompt"][0]["content"].split()[-1])]
        chosen, rejected = (int(row[name][0]["content"].split()[-1]) for name in ("chosen", "rejected"))
        return of[chosen] > of[rejected]

    every = preference_rows(made, pairs="all", minimum_probability=1e-9)
    assert every.probabilities.low >= 0.45
    sure = preference_rows(made, pairs="all", minimum_probability=0.9)
    assert 0 < len(sure) < len(every)
    assert sure.probabilities.sample == sure.dataset()["probability"][:]
    assert sure.dropped["pairs below the minimum probability"] == len(every) - len(sure)
    for rows in (list(every.dataset()), list(sure.dataset())):
        said = sum(row["probability"] for row in rows) / len(rows)
        assert sum(map(right, rows)) / len(rows) == pytest.approx(said, abs=0.03)


def test_pairs_by_probability_need_two_futures_and_a_sure_pair() -> None:
    with pytest.raises(ConfigError, match="how much rewards vary is unknown; it takes turns with two candidates"):
        preference_rows([trajectory("a", 0.5, 0.9)], minimum_probability=0.9)
    with pytest.raises(ConfigError, match=r"pair has 0\.\d\d: lower minimum_probability \(0\.99\)"):
        preference_rows([played([[[0.0, 1.0], [0.9, 0.4]]])], minimum_probability=0.99)


def test_what_is_read_twice_may_not_be_an_iterator(tmp_path: Path) -> None:
    made, _ = synthetic(20, between=0.3, within=0.5)
    with pytest.raises(ConfigError, match=r"twice: pass a list, or read_all\(\.\.\.\), instead of an iterator"):
        preference_rows(iter(made), minimum_probability=0.9)
    (tmp_path / "trajectories.jsonl").write_text("".join(one.model_dump_json() + "\n" for one in made))
    read = preference_rows(read_all([tmp_path]), minimum_probability=0.9)
    assert list(read.dataset()) == list(preference_rows(made, minimum_probability=0.9).dataset())


@pytest.mark.parametrize(
    "rows_of",
    [sft_rows, prompt_rows, preference_rows, partial(preference_rows, minimum_probability=0.6)],
    ids=["sft", "prompts", "preference", "probability"],
)
def test_a_dataset_in_the_making_takes_no_more_memory_for_many_trajectories_than_for_few(
    rows_of: Callable[[Iterable[Trajectory]], Made], tmp_path: Path
) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        made = rows_of(Generated(count))
        save_rows(made, tmp_path / str(count), how={})
        assert len(made) >= count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(200)  # What is loaded once.
    assert peak(2000) < 1.5 * peak(500)  # Samples of numbers still grow, up to their bound.


class Generated:
    """Trajectories of about 25 KB that are made anew in every iteration."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Trajectory]:
        for number in range(self.count):
            one = played([[[0.8, 0.9], [0.1, 0.2]], [[0.6, 0.9], [0.2, 0.1]]], f"task-{number}")
            text = f"{number} " + 1000 * "word "
            for turn in one.turns:
                turn.prompt = [said("user", text)]
            one.reward, one.messages = 0.5, [said("user", text), said("assistant", text)]
            yield one


@pytest.mark.parametrize(
    ("rewards", "gap", "said_so"),
    [
        ((0.5, 0.5), 0.0, "all candidates of every turn have the same reward"),
        ((0.5, 0.4), 0.3, "largest gap is 0.1: lower minimum_gap"),
        ((0.5,), 0.0, "candidates: 2 or more"),
    ],
)
def test_a_set_without_a_pair_is_refused_with_what_was_found(
    rewards: tuple[float, ...], gap: float, said_so: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?i)nothing to train on.*{said_so}"):
        preference_rows([trajectory("a", *rewards)], minimum_gap=gap)


def test_an_unknown_judge_in_the_lower_bounds_is_named() -> None:
    with pytest.raises(ConfigError, match="'blue' is not one of the judges bleu, reward"):
        sft_rows([trajectory("a", 0.1, bleu=0.1)], lower_bounds={"blue": 0.5})


def test_sessions_at_the_terminal_are_conversations_of_their_task(tmp_path: Path) -> None:
    store = JsonlStore(tmp_path / "trajectories.jsonl")
    for name, final in (("a", 0.1), ("a@1", 0.9), ("a@2", 0.2)):
        one = trajectory(name, 0.1, 0.2, final=final)
        about = {"session": {"task": "a"}} if "@" in name else {}
        store.append(one.model_copy(update={"task": one.task.model_copy(update={"metadata": about})}))
    assert [(row["task_id"], row["reward"]) for row in sft_rows(read_all([tmp_path])).dataset()] == [("a", 0.9)]


def test_prompts_hold_the_task_and_the_persona_and_each_stands_once() -> None:
    made = prompt_rows([trajectory("a", 0.1), trajectory("a", 0.1)], system_prompt="be kind")
    assert len(made) == 2
    row = made.dataset()[1]
    assert row["prompt"][0] == said("system", "be kind")
    assert task_of_row(row) == trajectory("a").task
    assert persona_of_row(row) is None


def test_of_many_conversations_of_many_tasks_each_task_has_its_best() -> None:
    random = Random(0)
    finals = [(f"t{random.randrange(300)}", random.random()) for _ in range(1000)]
    made = sft_rows(trajectory(task, 0.1, final=final) for task, final in finals)
    rows = list(made.dataset())
    best = {task: max(final for other, final in finals if other == task) for task, _ in finals}
    assert {row["task_id"]: row["reward"] for row in rows} == best
    assert len(made) == len(rows) == made.rewards.count == len(best)
    assert made.dropped == {"conversations that are not their task's best": 1000 - len(best)}


@settings(max_examples=30)
@given(st.lists(st.integers(0, 20), min_size=8, max_size=60), st.integers(0, 99))
def test_no_task_is_on_both_sides_of_the_split(tasks: list[int], seed: int) -> None:
    rows = Dataset.from_list([{"task_id": str(task)} for task in tasks])
    sides = {derive_seed(seed, "eval", str(task)) < 0.3 * 2**31 for task in tasks}
    if len(sides) < 2:
        with pytest.raises(ConfigError, match="leaves one side empty"):
            split_by_task(rows, eval_share=0.3, seed=seed)
        return
    split = split_by_task(rows, eval_share=0.3, seed=seed)
    train, held = (set(split[side]["task_id"]) for side in ("train", "eval"))
    assert not train & held
    assert len(split["train"]) + len(split["eval"]) == len(tasks)


def test_tool_messages_survive_a_dataset() -> None:
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "id": "1", "function": {"name": "look", "arguments": '{"a": 1}'}}],
    }
    result = {"role": "tool", "tool_call_id": "1", "name": "look", "content": "found"}
    one = trajectory("a", 0.1)
    one.messages[1:2] = [call, result, said("assistant", "there")]
    row = sft_rows([one]).dataset()[0]
    kept = [{key: value for key, value in message.items() if value is not None} for message in row["messages"]]
    assert kept[1:4] == [call, result, said("assistant", "there")]
    one.turns[0].candidates[0].messages = [call, result, said("assistant", "there")]
    with pytest.raises(ConfigError, match="task 'a' has a reply with tool messages"):
        list(to_nested([one]))


def test_what_only_a_late_row_has_is_a_column_of_all(tmp_path: Path) -> None:
    many = [trajectory(f"t{number}", 0.1) for number in range(900)]
    tools = [{"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
    late = many[700]
    late.messages[1:2] = [{"role": "assistant", "content": None, "tool_calls": tools}, said("assistant", "there")]
    made = sft_rows(many)
    save_rows(made, tmp_path / "saved", how={})
    for rows in (made.dataset(), read_dataset(str(tmp_path / "saved"), "sft")["train"]):
        assert len(rows) == 900
        assert rows[0]["messages"][1] == said("assistant", "t0 0") | {"tool_calls": None}
        assert rows[700]["messages"][1]["tool_calls"] == tools
        assert rows[899]["messages"][1] == said("assistant", "t899 0") | {"tool_calls": None}


def test_rows_of_different_kinds_are_refused() -> None:
    one = trajectory("a", 0.1)
    other = trajectory("b", 0.1)
    other.messages[0]["content"] = [{"type": "text", "text": "look"}]
    with pytest.raises(ConfigError, match="rows do not fit into one table"):
        sft_rows([one, other]).dataset()


def test_the_published_forms_survive_the_round_trip() -> None:
    read = list(from_published(NESTED))
    assert [turn.chosen for turn in read[0].turns] == [0, 0]
    assert read[0].turns[0].candidates[0].futures == [
        Future(messages=[said("user", "roses")], reward=0.9, scores={"bleu": 0.8})
    ]
    assert read[0].messages[-1] == said("assistant", "roses are red")
    assert list(to_nested(read)) == NESTED
    flat = list(to_flat(read))
    assert [(row["conv_id"], row["turn_id"], row["score"]) for row in flat] == [
        ("7", 1, 0.9), ("7", 1, 0.1), ("7", 3, 0.7), ("7", 3, 0.2),
    ]  # fmt: skip
    assert list(to_nested(from_published(flat))) == NESTED
    assert list(to_flat(from_published(reversed(flat)))) != []


def test_the_published_package_reads_what_is_written_and_makes_the_same_pairs(
    tmp_path: Path, published: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "conversations.json"
    source.write_text(json.dumps(NESTED))
    theirs = published(NESTED, add_system_prompt=False)
    for form in ("nested", "flat"):
        run("dataset", "--from", str(source), "--kind", form, "--out", str(tmp_path / form))
        rows = [
            dict(row)
            for row in load_dataset("parquet", data_files=str(tmp_path / form / "data/train.parquet"))["train"]
        ]
        again = published(rows, add_system_prompt=False)
        assert [(row["completion"], row["score"]) for row in again.data] == [
            (row["completion"], row["score"]) for row in theirs.data
        ]
    pairs = theirs.to_dpo_dataset()["train"]
    ours = preference_rows(from_published(theirs.data)).dataset()
    assert [(row["chosen"], row["score_rejected"]) for row in pairs] == [
        (row["chosen"][0]["content"], row["score_rejected"]) for row in ours
    ]
    best = theirs.to_sft_dataset()["train"]
    assert best["messages"][0] == sft_rows(from_published(theirs.data)).dataset()[0]["messages"]


def test_what_the_published_package_saves_is_read(tmp_path: Path, published: Any) -> None:
    rows = published(NESTED, add_system_prompt=False).data
    shared = [{key: row[key] for key in row if key not in ("sessions", "rewards")} for row in rows]
    Dataset.from_list(shared).save_to_disk(tmp_path / "saved")
    [read] = read_all([tmp_path / "saved"])
    assert [len(turn.candidates) for turn in read.turns] == [2, 2]
    assert read.task.goal == "write a poem"


def test_a_folder_is_read_as_it_is_now_and_not_as_one_of_the_same_name(tmp_path: Path) -> None:
    lines = [trajectory(f"t{i}", 0.1, 0.9).model_dump_json() + "\n" for i in range(9)]
    for folder, count in (("one", 4), ("two", 9), ("one", 6)):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
        (tmp_path / folder).mkdir()
        source = tmp_path / folder / "trajectories.jsonl"
        source.write_text("".join(lines[:count]))
        out = tmp_path / folder / "pairs"
        assert run("dataset", "--from", source, "--kind", "preference", "--out", out) == 0
        assert len(set(read_dataset(str(out), "preference")["train"]["task_id"])) == count
        assert len(read_rows(str(out), columns=["prompt"], split="train")) == len(
            read_dataset(str(out), "preference")["train"]
        )


def test_the_card_has_the_probabilities_of_pairs(tmp_path: Path) -> None:
    made, _ = synthetic(20, between=0.3, within=0.5)
    (tmp_path / "trajectories.jsonl").write_text("".join(one.model_dump_json() + "\n" for one in made))
    out = tmp_path / "pairs"
    run("dataset", "--from", str(tmp_path / "trajectories.jsonl"), "--kind", "preference", "--out", str(out),
        "--minimum-probability", "0.8")  # fmt: skip
    card = (out / "README.md").read_text()
    assert "## Probabilities that the chosen reply is better" in card
    assert "| probability | rows | |" in card
    assert "pairs below the minimum probability" in card
    assert "minimum_probability: 0.8" in card


def test_a_dataset_is_saved_as_parquet_with_a_card_that_says_how_it_was_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [trajectory(f"t{i}", 0.1 * (i % 7), 0.9).model_dump_json() + "\n" for i in range(20)]
    (folder / "trajectories.jsonl").write_text("".join(lines))
    out = tmp_path / "pairs"
    run("dataset", "--from", str(folder), "--kind", "preference", "--out", str(out), "--eval-share", "0.25",
        "--minimum-gap", "0.4")  # fmt: skip
    rows = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert set(rows) == {"train", "eval"}
    assert not set(rows["train"]["task_id"]) & set(rows["eval"]["task_id"])
    card = (out / "README.md").read_text()
    assert f"| train | {len(rows['train'])} |" in card
    assert "pairs below the minimum gap" in card
    assert "minimum_gap: 0.4" in card
    assert f"All {len(rows['train']) + len(rows['eval'])} are 0.900." in card
    assert "preference rows of 20 trajectories" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.part"))
    assert run("dataset", "--from", str(folder), "--kind", "sft", "--out", str(out)) == 1
    assert "is not empty" in capsys.readouterr().err


def test_a_run_without_a_finished_trajectory_and_a_table_of_another_kind_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "run" / "trajectories.jsonl").write_text("")
    with pytest.raises(RunDirectoryError, match=r"no finished trajectory; see failures\.jsonl"):
        list(read_all([tmp_path / "run"]))
    (tmp_path / "table.jsonl").write_text('{"question": "?", "answer": "!"}\n')
    with pytest.raises(ConfigError, match=r"neither a run directory nor .*columns: question, answer"):
        list(read_all([tmp_path / "table.jsonl"]))
    with pytest.raises(ConfigError, match="there is no such file"):
        list(read_all([tmp_path / "nothing"]))
    with pytest.raises(ConfigError, match=r"row 1: there is no column 'single_turn_prompt'"):
        list(from_published([NESTED[0], {"turns": []}]))


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The dataset class of the published package. It imports litellm, which its datasets do not use."""
    litellm = ModuleType("litellm")
    litellm.disable_cache = litellm.enable_cache = lambda *_, **__: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "litellm", litellm)
    monkeypatch.setenv("RUN_USER_DIR", str(tmp_path / "collabllm"))
    from collabllm.datasets.multiturn import MultiturnDataset

    return MultiturnDataset
