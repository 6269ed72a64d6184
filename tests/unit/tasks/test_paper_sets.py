"""The paper's task sets and datasets of one's own, read from local files in the published schemas."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml
from langchain_core.messages import AIMessage

from benchmarks.process import ROOT, Server
from collab_agents.errors import ConfigError
from collab_agents.judges import Conversation, accuracy, as_judge, clarification, pass_rate, problem_with
from collab_agents.runs.scorecard import Scorecard
from collab_agents.tasks import TASK_SETS, Task, load_tasks
from tests.support.coding import UNITTEST_TASKS
from tests.support.commands import start

Serve = Callable[..., Server]
Rows = list[dict[str, Any]]
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows into a file of the kind that its name says, and gives its path."""

    def save(rows: Rows, name: str) -> str:
        file = tmp_path / name
        if file.suffix == ".jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif file.suffix == ".json":
            file.write_text(json.dumps({"version": "1.0", "data": rows}))
        elif file.suffix == ".csv":
            pandas.DataFrame(rows).to_csv(file, index=False)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            pandas.DataFrame(rows).to_parquet(file)
        return str(file)

    return save


def articles(count: int = 400) -> Rows:
    """Every third is undated, every tenth long; a later number is a later date."""
    return [
        {
            "title": f"Title {i}",
            "text": f"Article {i}. " + "word " * (600 if i % 10 == 0 else 50),
            "url": f"https://medium.example/{i}",
            "authors": "['A']",
            "timestamp": None if i % 3 == 0 else f"2020-{1 + i // 28 % 12:02d}-{1 + i % 28:02d} 10:00:00+00:00",
            "tags": "['x']",
        }
        for i in range(count)
    ]


def problems() -> Rows:
    """BigCodeBench's columns; the right solution of each is known."""
    return [
        {
            "task_id": f"BigCodeBench/{i}",
            "complete_prompt": "...",
            "instruct_prompt": f"Write {task.entry_point}.",
            "canonical_solution": task.solution,
            "code_prompt": "import os\n",
            "test": task.tests,
            "entry_point": task.entry_point,
            "doc_struct": "{}",
            "libs": "['os', 'json']",
        }
        for i, task in enumerate(UNITTEST_TASKS)
    ]


def mathematics(count: int = 12) -> Rows:
    return [
        {
            "problem": f"What is ${i} + 1$?",
            "level": "Level 5" if i % 3 else "Level 4",
            "type": "Algebra",
            "solution": f"We add: $\\boxed{{{i + 1}}}$.",
        }
        for i in range(count)
    ]


def stories() -> Rows:
    def row(i: int, label: str, **more: Any) -> dict[str, Any]:
        before = [{"question": "Who?", "answer": "Ann", "turn_id": 1}]
        target = {"question": f"Where did she go ({i})?", "answer": f"Home {i}", "turn_id": 2}
        return {"id": str(i), "source": "mctest", "story": f"Ann and Eve went away ({i}).", "ambiguity": label,
                "history_turns": before, "target_turn": target} | more  # fmt: skip

    asked = {"question": "Who do you mean?", "answers": [{"clr_ans": "Eve", "org_ans": "School"}]}
    return [row(0, "non_ambiguous"), row(1, "ambiguous", clarification_turn=asked), row(2, "non_ambiguous")]


def ids(*arguments: Any, **options: Any) -> list[str]:
    return [task.id for task in load_tasks(*arguments, **options)]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_articles_are_dated_recent_short_and_split_by_task(write: Write, kind: str) -> None:
    file = write(articles(), f"medium.{kind}")
    splits = {
        split: list(load_tasks("mediumdocedit-chat", split=split, data_files=file, recent=0.5))
        for split in ("train", "test")
    }
    numbers = {split: {int(task.metadata["title"].split()[1]) for task in tasks} for split, tasks in splits.items()}
    assert not numbers["train"] & numbers["test"]
    everything = numbers["train"] | numbers["test"]
    assert all(i % 3 and i % 10 for i in everything)
    dated = sorted((row["timestamp"], i) for i, row in enumerate(articles()) if row["timestamp"])
    recent = {i for _, i in dated[-round(len(dated) * 0.5) :]}
    assert everything == {i for i in recent if i % 10}
    assert 0.1 < len(numbers["test"]) / len(everything) < 0.32
    task = splits["train"][0]
    assert task.reference == articles()[int(task.metadata["title"].split()[1])]["text"]
    assert task.metadata["title"] in task.goal
    assert (task.reference or "") in task.goal


def test_a_seed_decides_split_and_order_and_a_task_stays_in_its_split(write: Write) -> None:
    some, all_of_them = write(articles(200), "some.jsonl"), write(articles(400), "all.jsonl")
    options = {"recent": 1.0, "split": "test"}
    first = ids("mediumdocedit-chat", data_files=some, **options)
    assert ids("mediumdocedit-chat", data_files=some, **options) == first
    assert set(ids("mediumdocedit-chat", data_files=some, seed=1, **options)) != set(first)
    assert set(first) <= set(ids("mediumdocedit-chat", data_files=all_of_them, **options))
    assert ids("mediumdocedit-chat", data_files=some, limit=3, **options) == first[:3]
    twice = write(articles(200) + articles(200), "twice.jsonl")
    assert ids("mediumdocedit-chat", data_files=twice, **options) == first


async def test_problems_come_with_their_tests_and_their_solutions_pass_them(write: Write) -> None:
    file = write(problems(), "problems.parquet")
    splits = (load_tasks("bigcodebench-chat", split=split, data_files=file) for split in ("train", "test"))
    tasks = [task for split in splits for task in split]
    assert {task.id for task in tasks} == {row["task_id"] for row in problems()}
    judge = pass_rate()
    for task in tasks:
        assert problem_with(judge, task) is None
        assert task.metadata["libraries"] == ["os", "json"]
        reply = AIMessage(f"```python\n{task.reference}\n```")
        assert (await judge(Conversation([reply]), task)).value == 1.0


def test_the_hubs_layout_is_read_from_a_folder_too(write: Write, tmp_path: Path) -> None:
    write(problems(), "bigcodebench/data/v0.1.2-00000-of-00001.parquet")
    write(problems()[:2], "bigcodebench/data/v0.1.1-00000-of-00001.parquet")
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n" + "".join(
        f"  - split: {version}\n    path: data/{version}-*\n" for version in ("v0.1.1", "v0.1.2")
    )
    (tmp_path / "bigcodebench" / "README.md").write_text(card + "---\n")
    repo = str(tmp_path / "bigcodebench")
    found = {split: ids("bigcodebench-chat", split=split, repo=repo) for split in ("train", "test")}
    assert sum(map(len, found.values())) == len(problems())


async def test_mathematics_is_of_level_five_in_the_published_splits(write: Write) -> None:
    files = {"train": write(mathematics(12), "train.jsonl"), "test": write(mathematics(6), "test.jsonl")}
    train = list(load_tasks("math-chat", split="train", data_files=files))
    assert len(train) == 8
    assert len(ids("math-chat", split="test", data_files=files)) == 4
    for task in train:
        right = int(task.goal.split("$")[1].split()[0]) + 1
        for answer, value in ((right, 1.0), (right + 1, 0.0)):
            score = await accuracy()(Conversation([AIMessage(f"It is \\boxed{{{answer}}}.")]), task)
            assert score.value == value


def test_stories_say_whether_their_question_is_ambiguous(write: Write, tmp_path: Path) -> None:
    write(stories(), "coqa_abg_test.json")
    tasks = {task.metadata["question"]: task for task in load_tasks("abg-coqa", split="test", data_files=str(tmp_path))}
    assert len(tasks) == 3
    ambiguous, clear = tasks["Where did she go (1)?"], tasks["Where did she go (0)?"]
    assert (ambiguous.metadata["ambiguous"], ambiguous.reference) == (True, None)
    assert (clear.metadata["ambiguous"], clear.reference) == (False, "Home 0")
    assert problem_with(clarification(), clear) is None
    assert "Ann and Eve went away (0)." in clear.goal
    assert clear.goal.endswith("My question is: Where did she go (0)?")
    assert "Q: Who?" not in clear.goal
    told = load_tasks("abg-coqa", split="test", data_files=str(tmp_path), history=True)
    assert all("Q: Who?\nA: Ann" in task.goal for task in told)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_anybodys_dataset_is_mapped_by_naming_its_columns(write: Write, kind: str) -> None:
    rows = [{"q": f"Question {i}?", "a": i, "key": 100 + i, "topic": "sums", "hard": i > 1} for i in range(3)]
    file = write(rows, f"own.{kind}")
    columns = {"goal": "q", "reference": "a", "id": "key", "kind": "topic", "metadata": ["hard"]}
    tasks = list(load_tasks(file, columns=columns))
    assert [task.id for task in tasks] == ["100", "101", "102"]
    hard = "True" if kind == "csv" else True  # A CSV file has texts, whatever they look like.
    assert tasks[2] == Task(id="102", kind="sums", goal="Question 2?", reference="2", metadata={"hard": hard})
    plain = list(load_tasks(file, columns={"goal": "q", "metadata": {"level": "hard"}}))
    assert plain[2].metadata == {"level": hard}
    moved = write([{"q": "New?", "hard": None}, *rows, rows[1]], f"own.{kind}")
    again = list(load_tasks(moved, columns={"goal": "q", "metadata": {"level": "hard"}}))
    assert [task.id for task in again[1:4]] == [task.id for task in plain], "a row keeps its id"
    assert len({task.id for task in again}) == 5


def test_a_dataset_in_a_folder_is_mapped_by_its_split(write: Write, tmp_path: Path) -> None:
    write([{"q": "Who?"}], "dataset/train.parquet")
    write([{"q": "What?"}, {"q": "When?"}], "dataset/test.parquet")
    tasks = list(load_tasks(tmp_path / "dataset", split="test", columns={"goal": "q"}))
    assert [task.goal for task in tasks] == ["What?", "When?"]


def changed(rows: Rows, number: int, **values: Any) -> Rows:
    return [row | (values if index == number else {}) for index, row in enumerate(rows)]


def without(rows: Rows, column: str) -> Rows:
    return [{key: value for key, value in row.items() if key != column} for row in rows]


MED, BCB, MATH, ABG = "mediumdocedit-chat", "bigcodebench-chat", "math-chat", "abg-coqa"
Bad = tuple[str, Rows, str, dict[str, Any], str]
MEDIUM: list[Bad] = [
    (
        "mediumdocedit-chat",
        without(articles(9), "text"),
        "m.jsonl",
        {},
        "m.jsonl): there is no column 'text': it has title",
    ),
    (
        "mediumdocedit-chat",
        changed(articles(9), 8, text=""),
        "m.jsonl",
        {"recent": 1},
        "row 8: column 'text' is '': expected a text",
    ),
    (
        "mediumdocedit-chat",
        articles(9),
        "m.jsonl",
        {"max_words": 10},
        "the split 'train' is empty: of 9 articles 6",
    ),
    (
        "mediumdocedit-chat",
        articles(9),
        "m.jsonl",
        {"split": "tset"},
        "no split 'tset': use train or test; did you",
    ),
    (
        "mediumdocedit-chat",
        articles(9),
        "m.jsonl",
        {"max_wrds": 1},
        "no option 'max_wrds': it has data_files,",
    ),
    (MED, articles(9), "m.jsonl", {"recent": "x"}, "recent: input should be a valid number"),
    (MED, articles(9), "m.jsonl", {"test_share": 2}, "test_share must be between 0 and 1, got 2.0"),
]
CODE: list[Bad] = [
    (BCB, without(problems(), "entry_point"), "b.parquet", {}, "there is no column 'entry_point'"),
    (BCB, changed(problems(), 2, libs="os"), "b.parquet", {}, "row 2: column 'libs' is 'os': expected a list"),
    (
        "bigcodebench-chat",
        [row | {"test": 7} for row in problems()],
        "b.parquet",
        {},
        "row 0: column 'test' is 7: expected a text",
    ),
]
MATHEMATICS: list[Bad] = [
    (
        "math-chat",
        changed(mathematics(), 5, solution={"a": 1}),
        "m.jsonl",
        {},
        "row 5: column 'solution' is {'a': 1}: expected a",
    ),
    (
        "math-chat",
        [row | {"solution": 5} for row in mathematics()],
        "m.jsonl",
        {},
        "row 1: column 'solution' is 5: expected a text",
    ),
    (
        "math-chat",
        [row | {"level": "1"} for row in mathematics()],
        "m.jsonl",
        {},
        "the split 'train' is empty: none",
    ),
    (MATH, [], "m.jsonl", {}, "m.jsonl): it cannot be read"),
]
NO_ANSWER = {"question": "Who?", "answer": None, "turn_id": 1}
STORIES: list[Bad] = [
    (
        "abg-coqa",
        changed(stories(), 1, ambiguity="maybe"),
        "a.json",
        {},
        "row 1: column 'ambiguity' is 'maybe'",
    ),
    (ABG, changed(stories(), 0, target_turn=NO_ANSWER), "a.json", {}, "row 0: column 'target_turn' is"),
    (ABG, without(stories(), "story"), "a.json", {}, "there is no column 'story'"),
]


@pytest.mark.parametrize(("name", "rows", "file", "options", "problem"), [*MEDIUM, *CODE, *MATHEMATICS, *STORIES])
def test_a_bad_dataset_is_named_with_row_and_column(
    write: Write, name: str, rows: Rows, file: str, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as error:
        list(load_tasks(name, data_files=write(rows, file), **options))
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"goal": "qu"}, "there is no column 'qu': it has q, a; did you mean 'q'?"),
        ({"gaol": "q"}, "columns: goal: field required"),
        ({"goal": "q", "id": "a"}, "row 1: column 'a' is 'x': row 0 has the same id"),
        ({"goal": "q", "reference": "n"}, "there is no column 'n'"),
        ({"goal": "n"}, "there is no column 'n'"),
    ],
)
def test_a_wrong_mapping_is_refused(write: Write, columns: dict[str, Any], problem: str) -> None:
    file = write([{"q": "Who?", "a": "x"}, {"q": "What?", "a": "x"}], "own.jsonl")
    with pytest.raises(ConfigError) as error:
        list(load_tasks(file, columns=columns))
    assert problem in str(error.value)


def test_a_reference_of_the_wrong_type_is_named(write: Write) -> None:
    file = write([{"q": "Who?", "a": ["x"]}, {"q": "What?", "a": ["y"]}], "own.jsonl")
    with pytest.raises(ConfigError, match=r"own\.jsonl: row 0: column 'a' is \['x'\]: expected a text"):
        list(load_tasks(file, columns={"goal": "q", "reference": "a"}))


def test_what_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    for source, options, problem in (
        ("abg-coqa", {}, "not on the Hub: give the folder"),
        ("math-chat", {"data_files": {"train": "x.jsonl"}, "split": "test"}, "data_files has no such split"),
        ("math-chat", {"data_files": str(tmp_path / "none.jsonl")}, "it cannot be read: Unable to find"),
        (str(tmp_path / "none.csv"), {"columns": {"goal": "q"}}, "none.csv: No such file or directory"),
        ("math-chat", {"data_files": "problems.txt"}, "data_files must be existing .jsonl, .json, .csv or"),
        ("offline", {"columns": {"goal": "q"}}, "a set has its own columns"),
        ("offline", {"size": 1}, "there is no option 'size': it has none"),
        (str(tmp_path / "own.jsonl"), {"name": "x"}, "a file of tasks has no options"),
    ):
        with pytest.raises(ConfigError) as error:
            list(load_tasks(source, **options))
        assert problem in str(error.value)


def test_every_set_is_listed() -> None:
    assert list(TASK_SETS) == ["offline", "mediumdocedit-chat", "bigcodebench-chat", "math-chat", "abg-coqa"]
    assert problem_with(as_judge(lambda conversation, task: 1.0), Task(id="a", goal="b")) is None


def test_the_papers_evaluation_runs_on_every_set(serve: Serve, write: Write, tmp_path: Path) -> None:
    """examples/paper.yaml as it is, but for the model's address and where the datasets are."""
    server = serve("--deterministic")
    text = (ROOT / "examples" / "paper.yaml").read_text()
    settings = yaml.safe_load(text.replace("openai:gpt-4o-mini", "MODEL"))
    files = {
        MED: write(articles(6000), "m.parquet"),
        BCB: write(problems(), "b.parquet"),
        MATH: write(mathematics(), "h.jsonl"),
        ABG: {"test": write(stories(), "a.json")},
    }
    for tasks in settings["tasks"]:
        tasks["options"] = {"data_files": files[tasks["source"]]}
    settings["assistant"]["model"] |= {"name": "openai:any", "base_url": server.url}
    model = json.dumps({"name": "openai:any", "base_url": server.url})
    (tmp_path / "paper.yaml").write_text(json.dumps(settings).replace('"MODEL"', model))
    process = start("evaluate", "--config", tmp_path / "paper.yaml", "--limit", "3", "--out", tmp_path / "out")
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (0, "")
    card = Scorecard.model_validate_json((tmp_path / "out" / "scorecard.json").read_text())
    metrics = {one.name: one.metric for one in card.sets}
    assert metrics == {MED: "bleu", BCB: "pass_rate", MATH: "accuracy", ABG: "clarification"}
    for one in card.sets:
        (side,) = one.sides
        assert (side.finished, side.failed) == (3, 0)
        shown = "macro_accuracy" if one.name == ABG else one.metric
        assert side.measures[shown or ""].value is not None


def test_a_csv_file_is_taken_at_its_word(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text('id,q,a\n007,Which?,NA\n1e3,"Two,\nlines?",1.10\n3,Empty?,\n', encoding="utf-8")
    tasks = list(load_tasks(file, columns={"goal": "q", "reference": "a", "id": "id"}))
    assert [(task.id, task.reference) for task in tasks] == [("007", "NA"), ("1e3", "1.10"), ("3", None)]
    assert tasks[1].goal == "Two,\nlines?"


@pytest.mark.parametrize(
    ("content", "options", "problem"),
    [
        (b"q,a\nWho?,x,\n", {}, "row 0 (line 2 of "),
        (b"q,a\nWho?\n", {}, "has 1 fields, and the header has 2"),
        (b"q,a\n", {}, "it is empty"),
        (b"q,a\n\xff,x\n", {}, "it cannot be read"),
        (b"q,a\nWho?,x\n", {"streaming": True}, "there is no option 'streaming': it has data_files, name, revision"),
    ],
)
def test_a_broken_csv_file_is_named_by_row(
    tmp_path: Path, content: bytes, options: dict[str, Any], problem: str
) -> None:
    (tmp_path / "own.csv").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        list(load_tasks(tmp_path / "own.csv", columns={"goal": "q", "reference": "a"}, **options))
    assert problem in str(error.value)
    with pytest.raises(ConfigError, match="set columns to map its columns to a task"):
        list(load_tasks(tmp_path / "own.csv"))
