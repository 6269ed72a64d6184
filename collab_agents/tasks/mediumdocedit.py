from collections.abc import Iterator

from collab_agents._internal.rows import DataFiles, Row, read_rows, short_hash
from collab_agents.errors import ConfigError
from collab_agents.tasks.splits import shuffled, split_off
from collab_agents.tasks.task import Task

REPO = "Kamaljp/medium_articles"


def mediumdocedit_chat(
    split: str = "train",
    *,
    seed: int = 0,
    data_files: DataFiles | None = None,
    repo: str = REPO,
    max_words: int = 500,
    recent: float = 0.025,
    test_share: float = 0.2,
) -> list[Task]:
    """Writing an article together: the goal is a Medium article, with its text as the reference (judge `bleu`).

    As in CollabLLM, only the newest dated articles are used, because they are least likely to be in a model's training
    data.

    Args:
        split: "train" or "test". The tasks are split by id.
        seed: Determines the split and the order of the tasks.
        data_files: Local files to read instead of the dataset on the Hub.
        repo: The dataset on the Hub, with the columns title, text, url and timestamp.
        max_words: The maximum length of an article, in words.
        recent: The share of dated articles that counts as the newest.
        test_share: The share of tasks for testing.

    Returns:
        The tasks.

    Raises:
        ConfigError: If the dataset cannot be read, a row is malformed, or the split is unknown or empty.
    """
    rows = read_rows(repo, columns=["title", "text", "url", "timestamp"], split="train", data_files=data_files)
    dated = [(str(stamp), number) for number, stamp in enumerate(rows.column("timestamp")) if stamp is not None]
    newest = [number for _, number in sorted(dated)][-max(1, round(len(dated) * recent)) :] if dated else []
    tasks = shuffled(_tasks(rows.chosen(newest), max_words), seed=seed)
    chosen = split_off(tasks, split, test_share=test_share, seed=seed)
    if not chosen:
        raise ConfigError(
            f"{rows.name}: the split {split!r} is empty: of {len(rows)} articles {len(dated)} are dated, {len(newest)} "
            f"of these recent, and {len(tasks)} of those have at most {max_words} words"
        )
    return chosen


def _tasks(rows: Iterator[Row], max_words: int) -> Iterator[Task]:
    for row in rows:
        text = row.text("text")
        if len(text.split()) > max_words:
            continue
        title = row.text_or_none("title") or ""
        yield Task(
            id=f"medium-{short_hash(text)}",
            kind="document",
            goal=f"You want the assistant to write this article, in at most {max_words} words.\n\n{title}\n\n{text}",
            reference=text,
            metadata={"title": title, "url": row.text_or_none("url")},
        )
