"""Trajectory files: which lines are kept, cut off or refused; and messages that survive being stored."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from collab_agents.errors import RunDirectoryError
from collab_agents.messages import from_dicts, to_dicts
from collab_agents.prompts import transcript
from collab_agents.tasks import Task
from collab_agents.trajectories import Failure, JsonlStore, Trajectory, read_trajectories

failures = st.builds(Failure, task=st.builds(Task, id=st.text(min_size=1), goal=st.text(min_size=1)), error=st.text())


@given(st.lists(failures, max_size=5), st.integers(0, 400), failures)
def test_a_torn_line_is_cut_off_and_no_whole_line_is_lost(kept: list[Failure], cut: int, more: Failure) -> None:
    with TemporaryDirectory() as folder:
        store = JsonlStore(Path(folder) / "lines.jsonl")
        for record in kept:
            store.append(record)
        whole = store.path.stat().st_size if kept else 0
        store.append(more)
        size = store.path.stat().st_size
        torn = max(whole, size - 1 - cut)
        with open(store.path, "r+b") as file:
            file.truncate(torn)
        assert [Failure.model_validate(line) for _, line in store.lines()] == kept
        store.open()
        assert store.path.stat().st_size == whole
        store.append(more)
        assert [Failure.model_validate(line) for _, line in store.lines()] == [*kept, more]


def test_a_line_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JsonlStore(tmp_path / "lines.jsonl")
    record = Failure(task=Task(id="a", goal="b"), error="c")
    store.append(record)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            store.append(record)
    store.append(record)
    assert len(list(store.lines())) == 2


def test_a_line_that_is_no_trajectory_is_named(tmp_path: Path) -> None:
    (tmp_path / "trajectories.jsonl").write_text('{"task": {"id": "a", "goal": "b"}}\n')
    with pytest.raises(RunDirectoryError, match=r"trajectories\.jsonl:1: messages: field required"):
        list(read_trajectories(tmp_path))
    with pytest.raises(RunDirectoryError, match="is it a run directory"):
        list(read_trajectories(tmp_path / "none"))


CALL: Any = {"name": "search", "args": {"query": "weather"}, "id": "1", "type": "tool_call"}


def test_tool_calls_and_results_survive_the_round_trip() -> None:
    said: list[BaseMessage] = [
        SystemMessage("Be kind."),
        HumanMessage("What is the weather?"),
        AIMessage("Let me see.", tool_calls=[CALL]),
        ToolMessage("Rain.", tool_call_id="1", name="search"),
        AIMessage("It rains."),
    ]
    dicts = to_dicts(said)
    assert [one["role"] for one in dicts] == ["system", "user", "assistant", "tool", "assistant"]
    assert dicts[2]["tool_calls"][0]["function"]["name"] == "search"
    back = from_dicts(dicts)
    assert to_dicts(back) == dicts
    assert isinstance(back[2], AIMessage)
    assert back[2].tool_calls == [CALL]
    trajectory = Trajectory(task=Task(id="a", goal="b"), messages=dicts, stopped="user", turns=[])
    assert Trajectory.model_validate_json(trajectory.model_dump_json()).messages == dicts


def test_a_longer_transcript_begins_with_the_shorter_one() -> None:
    said: list[BaseMessage] = [HumanMessage("Hi"), AIMessage("", tool_calls=[CALL]), AIMessage("It rains.")]
    assert transcript(said).startswith(transcript(said[:2]))
    assert '<assistant><call>search({"query": "weather"})</call></assistant>' in transcript(said)
