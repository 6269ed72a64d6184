"""Ways in which the file of an index may be damaged."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def garble(file: Path) -> None:
    file.write_bytes(b"nothing of a database" * 1000)


def bent(file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("UPDATE state SET value = '[]'")
