"""A PostgreSQL server of the tests' own, as the system's package has it."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

USER, PASSWORD = "ann", "sesame-0x42-opens"


def program(name: str) -> str:
    """The path of one of the server's programs, which Debian does not put on the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or next(map(str, reversed(debian)), None)
    assert found, f"the tests need PostgreSQL's {name}: make system"
    return found


class PostgresServer:
    """Ready when it is made: on a Unix socket without a password, and on loopback with one."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # A socket's path must be short.
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._as: dict[str, Any] = {"cwd": self.folder}
        if os.getuid() == 0:  # As whom it refuses to run.
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._as |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        (self.folder / "password").write_text(PASSWORD)
        (self.folder / "password").chmod(0o644)
        options = ["--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile=password", "--encoding=UTF8"]
        command = [program("initdb"), "-D", "data", "-U", USER, "--no-sync", "--locale=C", *options]
        subprocess.run(command, check=True, capture_output=True, **self._as)
        self.start()

    def start(self) -> None:
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder, "fsync": "off"}
        options = [f"--{name}={value}" for name, value in settings.items()]
        with open(self.folder / "log", "a") as log:
            command = [program("postgres"), "-D", "data", "-p", str(self.port), *options]
            self.process = subprocess.Popen(command, stderr=log, **self._as)
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.address("postgres")).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise AssertionError((self.folder / "log").read_text()) from None
                time.sleep(0.05)

    def kill(self) -> None:
        """Break all connections and end, as after a crash."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def address(self, database: str) -> str:
        return f"postgresql://{USER}@/{database}?host={self.folder}&port={self.port}"

    def over_tcp(self, database: str) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        name = f"test_{uuid4().hex}"
        self.query("postgres", f"CREATE DATABASE {name}")
        return name

    def query(self, database: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.address(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []
