"""What a dataset in the making keeps on the disk instead of in memory."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from collab_agents._internal.scratch import scratch_folder
from collab_agents.errors import ConfigError

_BATCH = 200
"""Rows that are in memory at once."""


class RowFile:
    """Rows in temporary Arrow files, to which they are written as they come.

    Later rows may have columns, and keys in their messages, that the first ones lack.
    """

    def __init__(self) -> None:
        self._files: list[Path] = []
        self._schema: pa.Schema | None = None
        self._writer: Any = None
        self._waiting: list[Mapping[str, Any]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row. Raises ConfigError if a column's values are of kinds that cannot be in one column."""
        self._count += 1
        self._waiting.append(row)
        if len(self._waiting) >= _BATCH:
            self._write()

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows in tables with the same columns."""
        self._close()
        for path in self._files:
            # Pages of a mapped file would count as this process's memory.
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as batches:
                for batch in batches:
                    yield _fitted(pa.Table.from_batches([batch]), self._schema)

    def dataset(self) -> Dataset:
        """Return the rows as a dataset that is mapped from the disk."""
        self._close()
        if not self._files:
            return Dataset.from_list([])
        if len(self._files) > 1:  # Their columns differ.
            self._replace(self.tables())
        return Dataset.from_file(str(self._files[0]))

    def keep(self, numbers: Iterable[int]) -> None:
        """Drop all rows but these, given in ascending order."""
        self._replace(_chosen(self.tables(), iter(numbers)))

    def _write(self) -> None:
        if not self._waiting:
            return
        columns = dict.fromkeys(name for row in self._waiting for name in row)
        try:
            table = pa.table({name: [row.get(name) for row in self._waiting] for name in columns})
            schemas = [one for one in (self._schema, table.schema) if one is not None]
            schema = pa.unify_schemas(schemas, promote_options="permissive")
            table = _fitted(table, schema)
        except pa.ArrowException as error:
            raise ConfigError(f"the rows do not fit into one table: {error}") from error
        if self._writer is None or schema != self._schema:
            self._close_file()
            self._open(schema)
        self._writer.write_table(table)
        self._waiting.clear()

    def _open(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._files.append(scratch_folder() / "rows.arrow")
        self._writer = pa.ipc.new_stream(str(self._files[-1]), schema)

    def _close(self) -> None:
        self._write()
        self._close_file()

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _replace(self, tables: Iterator[pa.Table]) -> None:
        self._close()
        before, count = list(self._files), 0
        path = scratch_folder() / "rows.arrow"
        with pa.ipc.new_stream(str(path), self._schema) as writer:
            for table in tables:
                writer.write_table(table)
                count += len(table)
        self._files, self._count = [path], count
        for old in before:
            old.unlink()


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with all columns of the schema; what is missing is null."""
    there = set(table.column_names)
    columns = [table[name] if name in there else pa.nulls(len(table)) for name in schema.names]
    return pa.table(columns, names=schema.names).cast(schema)


def _chosen(tables: Iterator[pa.Table], numbers: Iterator[int]) -> Iterator[pa.Table]:
    start, number = 0, next(numbers, None)
    for table in tables:
        places = []
        while number is not None and number < start + len(table):
            places.append(number - start)
            number = next(numbers, None)
        if places:
            yield table.take(places)
        start += len(table)


class Seen:
    """A set of values, of which it keeps hashes in a temporary database."""

    def __init__(self) -> None:
        self._database = _temporary_database()
        self._database.execute("CREATE TABLE seen (hash BLOB PRIMARY KEY) WITHOUT ROWID")
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, value: object) -> bool:
        """Add a JSON value, and return whether it was not there."""
        digest = blake2b(json.dumps(value).encode(), digest_size=16).digest()
        new = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount > 0
        self._count += new
        return new


class Best:
    """The row of each task with the highest reward, in a temporary database. Of equal ones, it is the first."""

    def __init__(self) -> None:
        self._database = _temporary_database()
        self._database.execute("CREATE TABLE best (task TEXT PRIMARY KEY, reward REAL, number INTEGER) WITHOUT ROWID")

    def add(self, task: str, reward: float, number: int) -> None:
        self._database.execute(
            "INSERT INTO best VALUES (?, ?, ?) ON CONFLICT (task) DO UPDATE SET reward = excluded.reward, "
            "number = excluded.number WHERE excluded.reward > reward",
            (task, reward, number),
        )

    def __len__(self) -> int:
        return self._database.execute("SELECT count(*) FROM best").fetchone()[0]

    def rows(self, most: int) -> Iterator[tuple[int, float]]:
        """Yield the numbers of the rows with the highest rewards, in ascending order, and their rewards."""
        yield from self._database.execute(
            "SELECT number, reward FROM (SELECT * FROM best ORDER BY reward DESC, number LIMIT ?) ORDER BY number",
            (most,),
        )


def _temporary_database() -> sqlite3.Connection:
    database = sqlite3.connect(
        "", isolation_level=None
    )  # In a file that SQLite deletes, or in memory while it is small.
    database.execute("PRAGMA journal_mode = OFF")
    return database
