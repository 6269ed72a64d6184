"""What trainings begin with."""

import asyncio

import pytest
from datasets import DatasetDict

from collab_agents.training import opening_rows
from collab_agents.users import AgendaUser
from tests.support.tasks import party
from tests.support.tiny import tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny model."""
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def openings() -> DatasetDict:
    """The first messages of eight tasks, to train on."""
    made = asyncio.run(opening_rows([party(str(number)) for number in range(8)], AgendaUser()))
    return DatasetDict({"train": made.dataset()})
