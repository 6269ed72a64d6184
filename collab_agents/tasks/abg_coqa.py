from collections.abc import Iterator, Mapping
from pathlib import Path

from collab_agents._internal.rows import DataFiles, Row, Rows, read_rows, short_hash
from collab_agents.errors import ConfigError
from collab_agents.tasks.splits import shuffled
from collab_agents.tasks.task import Task

LABELS = {"ambiguous": True, "non_ambiguous": False}


def abg_coqa(
    split: str = "train", *, seed: int = 0, data_files: DataFiles | None = None, history: bool = False
) -> list[Task]:
    """Questions about a story, some of them ambiguous: does the assistant ask or answer (judge `clarification`)?

    The tasks are from Abg-CoQA (Guo et al., AKBC 2021). Play them with the scripted user `lines: ["{goal}"]`, for one
    exchange.

    Args:
        split: One of the dataset's own splits: "train", "val" or "test".
        seed: Determines the order of the tasks.
        data_files: The folder with the dataset's coqa_abg_<split>.json files, or a file for each split. Required, as
            the dataset is not on the Hub.
        history: Whether the goal includes the preceding questions and answers.

    Returns:
        The tasks, with the answer to a clear question as the reference.

    Raises:
        ConfigError: If the files are missing, or a row is malformed.
    """
    if data_files is None:
        raise ConfigError("abg-coqa is not on the Hub: give the folder of its coqa_abg_*.json files as data_files")
    if isinstance(data_files, str) and not Path(data_files).suffix:
        if not Path(data_files).is_dir():
            raise ConfigError(f"abg-coqa: data_files: there is no folder {data_files!r}")
        data_files = {name: f"{data_files}/coqa_abg_{name}.json" for name in ("train", "val", "test")}
    rows = read_rows(
        "abg-coqa",
        columns=["story", "ambiguity", "history_turns", "target_turn"],
        split=split,
        data_files=data_files,
        field="data",
    )
    return shuffled(_tasks(rows, history), seed=seed)


def _tasks(rows: Rows, history: bool) -> Iterator[Task]:
    for row in rows:
        story, label = row.text("story"), row.text("ambiguity")
        if label not in LABELS:
            raise row.error("ambiguity", "expected ambiguous or non_ambiguous")
        question, answer = _turn(row, "target_turn", row.values["target_turn"])
        before = "".join(f"Q: {asked}\nA: {said}\n" for asked, said in _history(row)) if history else ""
        parts = ["Can you help me answer a question about the following story?", story]
        parts += [f"These questions came before:\n{before.strip()}"] if before else []
        goal = "\n\n".join([*parts, f"My question is: {question}"])
        yield Task(
            id=f"abg-coqa-{short_hash(story, question, str(row.values['history_turns']))}",
            kind="question",
            goal=goal,
            reference=None if LABELS[label] else answer,
            metadata={"ambiguous": LABELS[label], "question": question},
        )


def _history(row: Row) -> list[tuple[str, str]]:
    turns = sorted(row.values["history_turns"] or [], key=lambda turn: turn.get("turn_id") or 0)
    return [_turn(row, "history_turns", turn) for turn in turns]


def _turn(row: Row, column: str, turn: object) -> tuple[str, str]:
    if isinstance(turn, Mapping):
        question, answer = turn.get("question"), turn.get("answer")
        if isinstance(question, str) and question.strip() and isinstance(answer, str):
            return question, answer
    raise row.error(column, "expected a question and an answer")
