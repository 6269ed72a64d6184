"""Rows of a Hugging Face dataset or of local files, whose errors say where a row is."""

import csv
import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from collab_agents._internal.reasons import first_problem, nearest
from collab_agents._internal.scratch import scratch_folder
from collab_agents.errors import ConfigError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

M = TypeVar("M", bound=BaseModel)

DataFiles = str | Sequence[str] | Mapping[str, str | Sequence[str]]
BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Row:
    """One row: its dataset's name, its number (from 0) and its values."""

    dataset: str
    number: int
    values: Mapping[str, Any]

    def text(self, column: str) -> str:
        """Return the column's text. Raises ConfigError if it is empty or not a text."""
        value = self.values[column]
        if not isinstance(value, str) or not value.strip():
            raise self.error(column, "expected a text")
        return value

    def text_or_none(self, column: str) -> str | None:
        """Return the column's text, number, boolean or date as text, or None if it is null, NaN or empty."""
        value = self.values[column]
        if value is None or value == "" or value != value:
            return None
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, date):
            return value.isoformat()
        if not isinstance(value, str | int | float):
            raise self.error(column, "expected a text")
        return str(value)

    def json(self, column: str) -> object:
        """Return the column's value, dates as text. Raises ConfigError for a value that JSON cannot hold."""
        value = self.values[column]
        if isinstance(value, date):
            return value.isoformat()
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise self.error(column, "expected a value that JSON can hold") from error
        return value

    def error(self, column: str, wanted: str) -> ConfigError:
        value = repr(self.values.get(column))[:80]
        return ConfigError(f"{self.dataset}: row {self.number}: column {column!r} is {value}: {wanted}")


class Rows:
    """A dataset with the required columns and at least one row."""

    def __init__(self, name: str, dataset: "Dataset", columns: Sequence[str]) -> None:
        self.name = name
        self._dataset = dataset
        there = list(dataset.column_names)
        for column in columns:
            if column not in there:
                raise ConfigError(
                    f"{name}: there is no column {column!r}: it has {', '.join(there)}{nearest(column, there)}"
                )
        if not len(dataset):
            raise ConfigError(f"{name}: it is empty")

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Row]:
        for number, values in enumerate(self._dataset):
            yield Row(self.name, number, values)

    def column(self, name: str) -> list[object]:
        return list(self._dataset[name][:])

    def chosen(self, numbers: Sequence[int]) -> Iterator[Row]:
        """Yield the rows with these numbers, in this order."""
        for number in numbers:
            yield Row(self.name, number, self._dataset[number])


def read_rows(
    source: str,
    *,
    columns: Sequence[str],
    split: str,
    data_files: DataFiles | None = None,
    field: str | None = None,
    **options: Any,
) -> Rows:
    """Read a split of a dataset on the Hub or in a folder, or the local files that replace it.

    Args:
        source: The repository ("owner/name") or folder; with `data_files`, only a name.
        columns: The columns that it must have.
        split: The split's name.
        data_files: JSON, JSONL, CSV or Parquet files, by pattern or name, or such an entry for each split.
        field: The key of a JSON file under which its rows are.
        **options: More arguments of `datasets.load_dataset`, such as `revision` or the configuration's `name`.

    Raises:
        ConfigError: If the dataset cannot be read, lacks a column or is empty. The error names the dataset.
    """
    try:
        from datasets import Dataset
        from datasets.utils import logging
    except ImportError as error:
        raise ConfigError(f"{source}: reading it needs datasets: pip install 'collab-agents[benchmarks]'") from error

    label = f"{source}, split {split!r}"
    path = source
    if data_files is not None:
        files = _files(label, data_files, split)
        label = source if files == [source] else f"{source} ({', '.join(files)})"
        path, split = _builder(label, files), "train"
        if path == "csv":
            return Rows(label, Dataset.from_dict(_read_csv(label, files)), columns)
        # A file's name is not a pattern.
        found = [glob.escape(file) if Path(file).exists() else file for file in files]
        options |= {"data_files": found} | ({"field": field} if field else {})
    try:
        logging.set_verbosity(logging.CRITICAL)  # Errors are reported below, once.
        dataset = load_fresh(path, split=split, **options)
    except Exception as error:  # From the Hub, the network, Arrow or pandas.
        hint = "" if data_files else "; the option data_files reads local files instead"
        raise ConfigError(f"{label}: it cannot be read: {_reason(error)}{hint}") from error
    return Rows(label, dataset, columns)


def load_fresh(path: str, **options: Any) -> "Dataset | DatasetDict":
    """Call `datasets.load_dataset`, with a cache of its own for a local folder.

    The cache (datasets 5.2) confuses a folder with its earlier contents, and with other folders of the same name.
    """
    from datasets import load_dataset

    if not Path(path).is_dir():
        return load_dataset(path, **options)
    return load_dataset(path, cache_dir=str(scratch_folder()), **options)


def parsed_lines(path: str | Path, file: BinaryIO, shape: type[M]) -> Iterator[tuple[int, M]]:
    """Yield the objects of a JSONL file with their line numbers, skipping blank lines.

    Raises ConfigError, which names the file, the line and the field.
    """
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            yield number, shape.model_validate(json.loads(line))
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}:{number}: not UTF-8: {error.reason} at byte {error.start}") from error
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}") from error
        except ValidationError as error:
            raise ConfigError(f"{path}:{number}: {first_problem(error)}") from error


def short_hash(*parts: str) -> str:
    """Return twelve hexadecimal digits for a row's contents, as an id if the dataset has none."""
    return blake2b(json.dumps(parts).encode(), digest_size=6).hexdigest()


def _files(label: str, data_files: DataFiles, split: str) -> list[str]:
    if isinstance(data_files, Mapping):
        if split not in data_files:
            raise ConfigError(f"{label}: data_files has no such split: it has {', '.join(data_files)}")
        data_files = data_files[split]
    return [data_files] if isinstance(data_files, str) else list(data_files)


def _read_csv(label: str, files: Sequence[str]) -> dict[str, list[str | None]]:
    """Read every cell as text, so that "007" is not a number and "NA" is not null. An empty cell is null."""
    columns: dict[str, list[str | None]] = {}
    for file in [path for pattern in files for path in sorted(glob.glob(pattern)) or [pattern]]:
        try:
            with open(file, encoding="utf-8-sig", newline="") as lines:
                rows = csv.reader(lines, strict=True)
                header = next(rows, [])
                for number, row in enumerate(rows):
                    if row and len(row) != len(header):
                        raise ConfigError(
                            f"{label}: row {number} (line {rows.line_num} of {file}) has {len(row)} fields, and the "
                            f"header has {len(header)}"
                        )
                    for name, value in zip(header, row, strict=False):
                        columns.setdefault(name, []).append(value or None)
        except OSError as error:
            raise ConfigError(f"{label}: it cannot be read: {file}: {error.strerror}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"{label}: it cannot be read: {file}: {_reason(error)}") from error
        for name in header:
            columns.setdefault(name, [])
    if len({len(values) for values in columns.values()}) > 1:
        raise ConfigError(f"{label}: the files have different columns")
    return columns


def _builder(label: str, files: Sequence[str]) -> str:
    kinds = {BUILDERS.get(Path(file).suffix.lower()) for file in files}
    if len(kinds) != 1 or None in kinds:
        raise ConfigError(
            f"{label}: data_files must be existing .jsonl, .json, .csv or .parquet files, all of one kind"
        )
    return str(kinds.pop())


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__
