"""The wheel, an application that has it installed, and a PostgreSQL server."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.process import ROOT
from tests.support.application import Application
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution, built as for a release."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--installer", "uv", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def application(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Application:
    made = Application(tmp_path_factory.mktemp("app"), tmp_path_factory.mktemp("site"))
    install = [sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--target", str(made.site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    for package in ("graphs", "training"):
        (made.folder / package).mkdir()
        (made.folder / package / "__init__.py").write_text("MINE = True\n")
    return made


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """The name of an empty database."""
    return postgres.new_database()
