"""Parquet files of trajectories: flat columns to filter by, and the exact line of each."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from collab_agents.errors import ConfigError, RunDirectoryError

LINE = "trajectory"
"""The column with the exact line."""
_TEXTS = ("task_id", "kind", "persona", "stopped")
_NUMBERS = ("seed", "exchanges", "calls", "input_tokens", "output_tokens")
_GROUP_BYTES = 8_000_000
"""Of lines in a row group. It is what a reader holds in memory."""
_GROUP_ROWS = 20_000


def check_installed() -> None:
    """Raise ConfigError if what Parquet files and addresses take is not installed."""
    try:
        import fsspec  # noqa: F401
        import pyarrow.fs  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"Parquet files and addresses need pip install 'collab-agents[data]' ({error.name} is missing)"
        ) from error


def write_lines(
    lines: Iterable[tuple[bytes, dict[str, Any]]], path: Path, opener: Callable[[str, int], int] | None = None
) -> None:
    """Write lines and their flat columns to a file, which is there once it is whole and on the disk."""
    check_installed()
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        [
            pyarrow.field("task_id", pyarrow.string()),
            pyarrow.field("kind", pyarrow.string()),
            pyarrow.field("persona", pyarrow.string()),
            pyarrow.field("seed", pyarrow.int64()),
            pyarrow.field("reward", pyarrow.float64()),
            pyarrow.field("stopped", pyarrow.string()),
            pyarrow.field("exchanges", pyarrow.int64()),
            pyarrow.field("calls", pyarrow.int64()),
            pyarrow.field("input_tokens", pyarrow.int64()),
            pyarrow.field("output_tokens", pyarrow.int64()),
            pyarrow.field("dollars", pyarrow.float64()),
            pyarrow.field(LINE, pyarrow.string()),
        ]
    )
    filtered = [name for name in schema.names if name != LINE]
    draft = path.with_name(path.name + ".new")
    with open(draft, "wb", opener=opener) as file:
        with pyarrow.parquet.ParquetWriter(
            file, schema, compression="zstd", use_dictionary=list(_TEXTS), write_statistics=filtered
        ) as writer:
            for group in _groups(lines):
                writer.write_table(pyarrow.Table.from_pylist(group, schema))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _groups(lines: Iterable[tuple[bytes, dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for line, columns in lines:
        group.append(columns | {LINE: line.decode()})
        size += len(line)
        if size >= _GROUP_BYTES or len(group) >= _GROUP_ROWS:
            yield group
            group, size = [], 0
    if group:
        yield group


def read_lines(path: Any, after: int = 0) -> Iterator[bytes]:
    """Yield the lines of a file after the first ones."""
    with _opened(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if after >= rows:
                after -= rows
                continue
            lines = file.read_row_group(group, columns=[LINE]).column(LINE)
            for line in lines[after:]:
                yield line.as_buffer().to_pybytes()
            after = 0


def count_rows(path: Any) -> int:
    """Return the number of a file's rows."""
    with _opened(path) as file:
        return int(file.metadata.num_rows)


def _opened(path: Any) -> Any:
    check_installed()
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path if isinstance(path, Path) else path.seekable())
    except pyarrow.ArrowInvalid as error:
        raise RunDirectoryError(f"{path} is not a Parquet file, or is damaged: {error}") from error
    if LINE not in file.schema_arrow.names:
        raise RunDirectoryError(f"{path} has no column {LINE!r}: it holds no trajectories")
    return file
