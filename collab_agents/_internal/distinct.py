"""A set of texts that takes little memory, however many there are."""

import sqlite3


class Distinct:
    """The texts that were added so far, in a temporary file that SQLite makes once they do not fit into its cache.

    As a set, ten million ids would take more than a gigabyte. It is for one thread.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode=OFF; CREATE TABLE texts (text BLOB PRIMARY KEY) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")  # Never committed: the file ends with the connection.

    def add(self, text: str) -> bool:
        """Add a text. Returns whether it is new."""
        row = (text.encode("utf-8", "surrogatepass"),)
        return self._database.execute("INSERT OR IGNORE INTO texts VALUES (?)", row).rowcount > 0
