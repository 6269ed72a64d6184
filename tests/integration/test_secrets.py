"""Keys are written nowhere, even when a server or an app echoes them."""

import base64
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from collab_agents import (
    ChatAssistant,
    GraphAssistant,
    Lookahead,
    MultiturnReward,
    Task,
    generate_trajectories,
    load_chat_model,
)
from collab_agents._internal.secrets import mask, remember_environment, remember_secret
from collab_agents.assistants.apps.packing import mask_packed
from collab_agents.config import RunConfig, load_config
from collab_agents.errors import ConfigError, ModelError
from collab_agents.judges import token_cost
from collab_agents.users import ScriptedUser
from tests.support.recording import Answer, Request, completion, recording

KEY = "sk-hunter2-hunter2"


async def play(url: str, out: Path, **options: Any) -> list[Any]:
    model = load_chat_model("openai:any", base_url=url, api_key=KEY)
    stream = generate_trajectories(
        [Task(id="t", goal=f"say {os.environ.get('MY_TOKEN', '')}")],
        user=ScriptedUser(["hello", "go on"]),
        assistant=ChatAssistant(model),
        reward=MultiturnReward({"cost": token_cost()}),
        out=out,
        settings={"note": KEY},
        **options,
    )
    return [one async for one in stream]


def written(out: Path) -> bytes:
    return b"".join(file.read_bytes() for file in out.rglob("*") if file.is_file())


@pytest.mark.parametrize("status", [200, 403])
async def test_a_key_that_a_server_echoes_is_masked_in_every_file(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "hf_of_the_environment")

    def echo(request: Request) -> Answer:
        text = f"You sent {request.headers['authorization']} and hf_of_the_environment"
        return Answer(completion(text) if status == 200 else {"error": {"message": text}}, status)

    with recording(echo) as server:
        done = await play(server.url, tmp_path / "run")
        assert len(done) == (status == 200)
        assert len(server.requests) > 0
        server.answer = lambda request: Answer({"error": {"message": f"wrong key {KEY}"}}, 401)
        with pytest.raises(ModelError) as error:
            await load_chat_model("openai:any", base_url=server.url, api_key=KEY).ainvoke("hi")
    assert KEY not in str(error.value)
    files = written(tmp_path / "run")
    assert b"You sent Bearer ****" in files
    assert KEY.encode() not in files
    assert b"hf_of_the_environment" not in files


async def test_a_key_in_an_apps_own_state_is_masked_on_the_disk_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_APPS_API_KEY", "sk-known-to-nobody-but-the-app")
    key, fails = os.environ["THE_APPS_API_KEY"], True

    class Holds(MessagesState):
        secret: str

    def answer(state: Holds) -> dict[str, Any]:
        if fails and len(state["messages"]) > 2:
            raise ValueError(f"{key} was refused")
        return {"messages": [("ai", f"I have {key}.")], "secret": key}

    graph = StateGraph(Holds).add_node("answer", answer).add_edge(START, "answer")
    app = graph.compile(checkpointer=InMemorySaver())

    async def play(resume: bool) -> list[Any]:
        stream = generate_trajectories(
            [Task(id="t", goal="say")],
            user=ScriptedUser(["hello", "go on"]),
            assistant=GraphAssistant(app),
            reward=MultiturnReward({"cost": token_cost()}),
            lookahead=Lookahead(candidates=1, futures=1, window=0, max_exchanges=2),
            out=tmp_path,
            resume=resume,
        )
        return [one async for one in stream]

    assert await play(resume=False) == []
    files = written(tmp_path)
    packed = [base64.b64decode(text) for text in re.findall(rb"msgpack:([A-Za-z0-9+/=]+):", files)]
    assert len(packed) > 0
    assert all(key.encode() not in one for one in [files, *packed])
    assert any(b"*" * len(key) in one for one in packed)
    fails = False
    assert len(await play(resume=True)) == 1
    assert key.encode() not in written(tmp_path)


def test_keys_are_masked_longest_first_and_as_json_has_them() -> None:
    remember_secret("sk-begins")
    remember_secret("sk-begins-and-goes-on")
    remember_secret('sk-"quoted"-here')
    assert mask("sk-begins-and-goes-on") == "*" * 21
    assert "quoted" not in mask(json.dumps({"error": 'no sk-"quoted"-here'}))


def test_a_word_without_end_is_searched_for_packed_values_in_one_pass() -> None:
    word = b"a" * 2_000_000
    assert mask_packed(word) == word


def test_a_plain_word_in_the_environment_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "metadata")
    remember_environment()
    assert mask("metadata") == "metadata"


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ({"assistant": {"model": {"name": "openai:x", "options": {"default_query": {"api-key": "k"}}}}}, "default_query.api-key"),
        ({"assistant": {"model": {"name": "openai:x", "options": {"extra_body": [{"a": {"Authorization": "k"}}]}}}}, "extra_body.0.a"),
        ({"assistant": {"model": {"name": "openai:x", "base_url": "http://h/v1?key=k"}}}, "?key="),
        ({"assistant": {"app": "mine:app", "options": {"config": {"configurable": {"api_key": "k"}}}}}, "config.configurable.api_key"),
        ({"judges": [{"name": "x", "judge": "m:x", "options": {"password": "k"}}]}, "password"),
        ({"tasks": {"source": "offline", "options": {"hub_token": "k"}}}, "hub_token"),
        ({"judges": [{"name": "x", "judge": "m:x", "options": {"api_keys": ["k"]}}]}, "api_keys"),
    ],
)  # fmt: skip
def test_a_secret_in_a_configuration_is_refused_wherever_it_stands(part: Any, where: str, tmp_path: Path) -> None:
    base = {
        "assistant": {"model": "local:smollm2"},
        "user": {"kind": "agenda"},
        "judges": [{"name": "token_cost"}],
        "tasks": {"source": "offline"},
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(base | part))
    with pytest.raises(ConfigError) as error:
        load_config(file, RunConfig)
    assert where in str(error.value)
    assert "may hold a secret" in str(error.value)


async def test_a_runs_files_are_for_their_owner_alone_unless_shared(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with recording() as server:
            await play(server.url, tmp_path / "own")
            await play(server.url, tmp_path / "shared", private=False)
    finally:
        os.umask(before)

    def modes(folder: Path) -> set[int]:
        return {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}

    assert modes(tmp_path / "own") == {0o600}
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700
    assert modes(tmp_path / "shared") == {0o644}
