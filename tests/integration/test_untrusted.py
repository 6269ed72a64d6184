"""Reading what others wrote (checkpoints, an app's memory, models) runs no code that is in it."""

import json
import pickle
import sqlite3
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
import torch
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from collab_agents import GraphAssistant, load_chat_model
from collab_agents._internal.sealing import KEY_VARIABLE
from collab_agents.assistants.apps.packing import pack
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.judges import reward_model
from collab_agents.participants import AssistantContext, Memory
from collab_agents.runs.directory import read_failures
from collab_agents.training.config import PolicyConfig
from collab_agents.training.policy import load_policy
from collab_agents.trajectories import read_trajectories
from tests.support.participants import Counts
from tests.support.postgres import PostgresServer
from tests.support.runs import collect, generate
from tests.support.tasks import parties
from tests.support.tiny import tiny_model


@dataclass
class Declared:
    number: int


@dataclass
class Undeclared:
    number: int


class Shop(MessagesState):
    declared: Declared
    anything: Any


def shop(name: str = "shop") -> GraphAssistant:
    async def answer(state: Shop) -> dict[str, Any]:
        number = state["declared"].number + 1 if "declared" in state else 1
        kept = Undeclared(number) if name == "undeclared" else None
        return {"messages": [AIMessage(f"reply {number}")], "declared": Declared(number), "anything": kept}

    graph = StateGraph(Shop).add_node("answer", answer).add_edge(START, "answer")
    return GraphAssistant(graph.compile(checkpointer=InMemorySaver(), name=name))


class Evil:
    """What creates the file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def touching(file: Path) -> bytes:
    """What creates the file when it is read as LangGraph reads by default."""
    return ormsgpack.packb(ormsgpack.Ext(0, ormsgpack.packb(("os", "system", f"touch {file}"))))


@pytest.mark.parametrize("kind", ["msgpack", "pickle"])
async def test_a_poisoned_state_in_a_database_is_refused_when_a_run_is_resumed(
    kind: str, postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    out, owned = tmp_path / "run", tmp_path / "owned"
    checkpoints = postgres.address(database)
    await collect(parties(3), out=out, assistant=Counts(fail_on="number 1"), checkpoints=checkpoints)
    poison = touching(owned) if kind == "msgpack" else pickle.dumps(Evil(owned))
    postgres.query(database, "UPDATE checkpoint_blobs SET type = %s, blob = %s", kind, poison)
    with pytest.raises(RunDirectoryError, match=r"holds a (os\.system|pickle value), which no run writes there"):
        await collect(parties(3), out=out, resume=True, checkpoints=checkpoints)
    assert not owned.exists()


async def test_a_poisoned_checkpoint_is_refused_when_a_run_is_resumed(tmp_path: Path) -> None:
    out, owned = tmp_path / "run", tmp_path / "owned"
    await collect(parties(3), out=out, assistant=Counts(fail_on="number 1"))
    with sqlite3.connect(out / "checkpoints.sqlite") as database:
        changed = database.execute("UPDATE checkpoints SET type = 'msgpack', checkpoint = ?", [touching(owned)])
        assert changed.rowcount > 0
    with pytest.raises(RunDirectoryError, match=r"holds a os\.system, which no run writes there"):
        await collect(parties(3), out=out, resume=True)
    assert not owned.exists()


async def test_an_apps_memory_of_somebody_else_is_read_as_far_as_its_state_declares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[BaseMessage] = [HumanMessage("Hello")]
    memories: dict[str, Memory] = {}
    later: dict[str, list[BaseMessage]] = {}
    for name in ("shop", "undeclared"):
        reply, memories[name] = await shop(name).respond(asked, {}, AssistantContext(seed=1))
        later[name] = [*asked, *reply, HumanMessage("On")]
        again, _ = await shop(name).respond(later[name], memories[name], AssistantContext(seed=1))
        assert again[-1].content == "reply 2"
    monkeypatch.setenv(KEY_VARIABLE, "of another machine")
    app = shop()
    again, _ = await app.respond(later["shop"], memories["shop"], AssistantContext(seed=1))
    assert again[-1].content == "reply 2"
    assert app.state_of(memories["shop"])["declared"] == Declared(1)
    with pytest.raises(ConfigError, match=rf"holds {__name__}\.Undeclared, which the app's state does not"):
        await shop("undeclared").respond(later["undeclared"], memories["undeclared"], AssistantContext(seed=1))


@pytest.mark.parametrize("kind", [tuple, list, deque, set, dict.fromkeys, lambda pair: deque([*pair])])
@pytest.mark.parametrize("place", range(4))
async def test_code_in_an_apps_thread_is_not_run_whatever_holds_it(place: int, kind: Any, tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    evil = kind(("msgpack", touching(owned)))
    plain, nothing = ("msgpack", ormsgpack.packb({"channel_versions": {}})), ("null", b"")
    entry = [
        *["", "1", evil if place == 0 else plain, evil if place == 1 else nothing, None],
        *[[["x", "1", evil]] if place == 2 else [], [["t", 0, "x", evil, ""]] if place == 3 else []],
    ]
    for taken in ([entry], deque([entry]), {"a": entry}):
        forged = pack(taken).rsplit(":", 1)[0]
        memory = {"branch": {"thread": forged, "thread_id": "1"}}
        with pytest.raises(ConfigError, match="assistant_memory"):
            await shop().respond([HumanMessage("Hello")], memory, AssistantContext())
    assert not owned.exists()


@pytest.mark.parametrize("place", ["thread", "state", "asked"])
async def test_code_in_an_apps_memory_is_not_run(place: str, tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    forged = pack([["", "1", ("msgpack", touching(owned)), ("null", b""), None, [], []]]).rsplit(":", 1)[0]
    memory = {"branch": {"thread": forged}} if place == "thread" else {place: {"x": forged}}
    with pytest.raises(ConfigError, match=r"holds os\.system"):
        await shop().respond([HumanMessage("Hello")], memory, AssistantContext(seed=1))
    with pytest.raises(ConfigError, match="which no assistant wrote"):
        shop().state_of({"state": {"x": "not packed at all"}})
    assert not owned.exists()


async def test_a_message_of_ones_own_kind_is_kept_as_one_of_langchains(tmp_path: Path) -> None:
    class Mine(AIMessage):
        extra: str = "x"

    class Says(Counts):
        async def respond(
            self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
        ) -> tuple[list[BaseMessage], Memory]:
            reply, memory = await super().respond(messages, memory, context)
            return [Mine(content=reply[0].content)], memory

    async with generate(parties(3), assistant=Says(), out=tmp_path, max_concurrency=2) as trajectories:
        await anext(trajectories)
    await collect(parties(3), assistant=Says(), out=tmp_path, resume=True)
    assert len(list(read_trajectories(tmp_path))) == 3
    assert read_failures(tmp_path) == []


def test_processes_that_start_together_share_a_key(tmp_path: Path) -> None:
    code = "from collab_agents._internal.sealing import seal_of; print(seal_of(b'x'))"
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=home, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert len({one.communicate()[0] for one in running}) == 1
    (key,) = (tmp_path / ".local/state/collab-agents").iterdir()
    assert key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("load", ["model", "reward", "train"])
def test_a_models_own_code_and_pickles_are_not_run(load: str, tmp_path: Path) -> None:
    owned, folder = tmp_path / "owned", tmp_path / "model"
    code = f"open({str(owned)!r}, 'w')\nclass Evil: pass\n"
    auto = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification"), "evil.Evil")
    tiny_model(folder)
    (folder / "model.safetensors").unlink()
    plain = (folder / "config.json").read_text()
    (folder / "evil.py").write_text(code)
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    with pytest.raises(ConfigError, match=r"cannot be loaded from a folder or the Hub: .*custom code"):
        load_by(load, str(folder))
    (folder / "config.json").write_text(plain)

    torch.save({"x": Evil(owned)}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="its weights are a pickle with code in it; use safetensors"):
        load_by(load, str(folder))
    assert not owned.exists()


def load_by(what: str, folder: str) -> None:
    if what == "model":
        load_chat_model(f"local:{folder}")
    elif what == "reward":
        reward_model(folder)
    else:
        load_policy(PolicyConfig(name=folder))
