"""Tasks: files of them, the offline set, and how questions and drafts are told apart."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab_agents.errors import ConfigError
from collab_agents.tasks import Agenda, Task, load_tasks, offline_tasks
from collab_agents.tasks.questions import is_draft, questions
from tests.support.tasks import party


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_tasks_are_read_one_a_line_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    file = write(tmp_path / "tasks.jsonl", '{"id": "a", "goal": "x"}', "", party().model_dump_json())
    assert [task.id for task in load_tasks(file)] == ["a", "party"]
    assert [task.id for task in load_tasks(file, limit=1)] == ["a"]


def test_a_goal_that_an_earlier_version_called_prompt_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "tasks.jsonl", '{"id": "a", "prompt": "x"}')
    assert list(load_tasks(file)) == [Task(id="a", goal="x")]
    assert list(load_tasks(file, columns={"prompt": "prompt", "id": "id"})) == [Task(id="a", goal="x")]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"id": "b", "goal": ', "not JSON"),
        ('{"id": "b"}', "goal: field required"),
        ('{"id": "b", "goal": ""}', "goal: string should have at least 1 character"),
        ('{"id": "b", "goal": "x", "gaol": "y"}', "gaol: unknown field"),
        ('{"id": 7, "goal": "x"}', "id: input should be a valid string, got '7'"),
        ('["b"]', "the value: input should be a valid dictionary"),
        ('{"id": "a", "goal": "x"}', "the id 'a' is taken by line 1"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_line(tmp_path: Path, line: str, problem: str) -> None:
    file = write(tmp_path / "tasks.jsonl", '{"id": "a", "goal": "x"}', line)
    with pytest.raises(ConfigError) as error:
        list(load_tasks(file))
    assert str(error.value).startswith(f"{file}:2: ")
    assert problem in str(error.value)


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_bytes(b'{"id": "a", "goal": "x"}\n{"id": "\xff"}\n')
    with pytest.raises(ConfigError, match=r"tasks\.jsonl:2: not UTF-8"):
        list(load_tasks(tmp_path / "tasks.jsonl"))


def test_a_missing_file_says_what_to_give_instead(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give one of offline, mediumdocedit-chat"):
        list(load_tasks(tmp_path / "none.jsonl"))


@given(
    st.text(min_size=1),
    st.text(min_size=1),
    st.dictionaries(st.text(), st.integers() | st.text() | st.none()),
)
def test_any_task_survives_its_line(task_id: str, prompt: str, metadata: dict[str, object]) -> None:
    task = Task(id=task_id, goal=prompt, metadata=metadata)
    assert Task.model_validate(json.loads(task.model_dump_json())) == task


def test_the_offline_set_is_large_split_and_the_same_for_the_same_seed() -> None:
    train, test = offline_tasks("train"), offline_tasks("test")
    assert len(train) + len(test) >= 200
    assert len({task.kind for task in train}) >= 8
    assert {task.kind for task in test} == {task.kind for task in train}
    goals = [task.goal for task in train + test]
    assert len(set(goals)) == len(goals)
    assert offline_tasks("train") == train
    assert offline_tasks("train", seed=1) != train
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        offline_tasks("trian")


@pytest.mark.parametrize("seed", range(8))
def test_every_offline_task_can_be_finished(seed: int) -> None:
    for task in offline_tasks("train", seed=seed) + offline_tasks("test", seed=seed):
        agenda = Agenda.of(task)
        assert agenda is not None
        assert 3 <= len(agenda.facts) <= 6
        assert not agenda.missing(task.reference or "")
        assert agenda.missing(agenda.opening) == list(agenda.facts), "the opening gives a fact away"
        for fact in agenda.facts:
            assert fact.is_in(fact.tell)
            assert fact in agenda.asked(f"Could you tell me the {fact.name}?")
            assert fact.mistakes
            assert not any(fact.is_in(mistake) for mistake in fact.mistakes)


def test_a_fact_is_found_whatever_its_case_punctuation_and_determiner() -> None:
    date, place, dress = Agenda.of(party()).facts  # type: ignore[union-attr]
    assert date.is_in("See you SATURDAY, 14 June!")
    assert place.is_in("we meet in a Blue Barn.")
    assert not place.is_in("at the blue barnyard")
    assert not date.is_in("Saturday 14 July")
    assert dress.is_asked_in("What should people wear?")


def test_questions_and_drafts_are_told_apart() -> None:
    assert questions("Sure! When is it?\nPlease let me know the place. I like parties.") == [
        "When is it?",
        "Please let me know the place.",
    ]
    assert not questions("You are invited to our party. Bring a dessert.")
    assert is_draft("word " * 20)
    assert not is_draft("Sure! " + "Where exactly would you like to have the party, and how many people come? " * 3)
