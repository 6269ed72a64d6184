"""The graphs on a LangGraph server: a real `langgraph dev`, and clients of it."""

import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
import yaml
from langchain_core.messages import HumanMessage
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from benchmarks.process import ROOT, Server
from collab_agents import GraphAssistant, Lookahead, MultiturnReward, ScriptedUser, create_rollout_graph
from collab_agents.errors import ConfigError
from collab_agents.server.settings import BASE_URLS, CONFIGS
from collab_agents.tasks import offline_tasks

GRAPHS = ["conversation", "lookahead", "lookahead_agent", "rollout"]
Context = dict[str, Any]
PROBE = """
import sys

def no_clash(conversation, task):
    return 0.0 if {"graphs", "training"} & set(sys.modules) else 1.0
"""


AGENT = """
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt

async def answer(state: MessagesState, runtime: Runtime):
    return {"messages": [("ai", f"My context is {runtime.context}.")]}

app = StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").compile()

class Shop(MessagesState):
    asked: int

async def count(state: Shop):
    asked = state.get("asked", 0) + 1
    words = state["messages"][-1].content
    if words == "Sell it.":
        words = interrupt({"question": "For how much?"})
    return {"messages": [("ai", f"{asked}: {words}")], "asked": asked}

shop = StateGraph(Shop).add_node("count", count).add_edge(START, "count").compile()

async def sell(state: Shop):
    asked = state.get("asked", 0) + 1
    return {"messages": [("ai", f"{asked}: {state['messages'][-1].content}")], "asked": asked}

desk = StateGraph(Shop).add_node("sell", sell).add_edge(START, "sell").compile(checkpointer=InMemorySaver())
"""


@pytest.fixture(scope="module")
def models() -> Iterator[Server]:
    server = Server("--latency", "0", "--log")
    yield server
    server.close()


@pytest.fixture(scope="module")
def refusing() -> Iterator[Server]:
    server = Server("--latency", "0", "--error-rate", "1", "--error-status", "403")
    yield server
    server.close()


@pytest.fixture(scope="module")
def app(models: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an application that has packages named graphs and training of its own."""
    app = tmp_path_factory.mktemp("app")
    served = json.loads((ROOT / "langgraph.json").read_text())
    served["graphs"]["shop"] = "./agent.py:shop"  # A deployment of somebody else's.
    (app / "langgraph.json").write_text(json.dumps(served))
    for package in ("graphs", "training"):
        (app / package).mkdir()
        (app / package / "__init__.py").write_text("")
    (app / "probe.py").write_text(PROBE)
    (app / "agent.py").write_text(AGENT)
    settings = {
        "assistant": {"model": {"name": "openai:any", "base_url": models.url}},
        "user": {"kind": "scripted", "lines": ["one", "two"]},
        "judges": [{"name": "no_clash", "judge": "probe:no_clash"}],
        "lookahead": {"candidates": 1, "futures": 1, "window": 1, "max_exchanges": 2},
        "tasks": {"source": "offline", "split": "train"},
    }
    (app / "run.yaml").write_text(yaml.safe_dump(settings))
    (app / "unlisted.yaml").write_text(yaml.safe_dump(settings))
    unsafe = {"name": "pass_rate", "options": {"sandbox": "none"}}
    (app / "open.yaml").write_text(yaml.safe_dump(settings | {"judges": [unsafe]}))
    return app


@pytest.fixture(scope="module")
def url(app: Path, models: Server, refusing: Server) -> Iterator[str]:
    """The address of `langgraph dev`, in the application's folder. Its log is shown when a test fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload", "--port", str(port)]
    quiet = {"LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1", "LANGGRAPH_NO_VERSION_CHECK": "true"}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with (app / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--n-jobs-per-worker", "8"],
            cwd=app,
            env={
                **os.environ,
                **quiet,
                "PYTHONPATH": path,
                "OPENAI_API_KEY": "",
                BASE_URLS: f"{models.url}, {refusing.url}",
                CONFIGS: "run.yaml, agent.yaml, desk.yaml, judged.yaml, limited.yaml, open.yaml, x.yaml",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        print((app / "log").read_text())


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{url}/ok", timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, "langgraph dev ended by itself"
            assert time.monotonic() < deadline, "langgraph dev does not answer"
            time.sleep(0.1)


@pytest.fixture
def client(url: str) -> LangGraphClient:
    return get_client(url=url, api_key=None)


@pytest.fixture
def context(models: Server) -> Context:
    return {"model": "openai:any", "base_url": models.url, "futures": 2, "window": 1, "max_exchanges": 2}


async def send(
    client: LangGraphClient, graph: str, input: dict[str, Any], context: Context, thread: str | None = None
) -> Any:
    """What the client gets: the output, or `__error__`."""
    return await client.runs.wait(thread, graph, input=input, context=context, raise_error=False)


async def run(client: LangGraphClient, graph: str, input: dict[str, Any], context: Context) -> Any:
    """What a run on a thread of its own ends with; the thread has nothing left to do."""
    thread = (await client.threads.create())["thread_id"]
    out = await send(client, graph, input, context, thread)
    state: Any = await client.threads.get_state(thread)
    assert (state["next"], state["values"]) == ([], state["values"] | out)
    return out


def roles(out: dict[str, Any]) -> list[str]:
    return [message["type"] for message in out["messages"]]


async def test_the_graphs_are_listed_with_described_settings_that_have_defaults(client: LangGraphClient) -> None:
    assistants = [one for one in await client.assistants.search() if one["graph_id"] != "shop"]
    assert sorted(one["name"] for one in assistants) == sorted(GRAPHS)
    for one in assistants:
        assert one["description"]
        schemas = await client.assistants.get_schemas(one["assistant_id"])
        settings: Any = (schemas["context_schema"] or {})["properties"]
        assert all(setting["description"] and "default" in setting for setting in settings.values())
        assert settings["judges"]["default"] == ["fact_coverage", "token_cost"]
        assert "busy-manager" in settings["persona"]["anyOf"][0]["enum"]
        assert "messages" in (schemas["input_schema"] or {})["properties"]


async def test_a_drawing_shows_the_branches_inside(client: LangGraphClient) -> None:
    drawn = await client.assistants.get_graph("rollout", xray=True)
    names = {node["id"] for node in drawn["nodes"]}
    assert {"simulated_user", "candidate:assistant", "candidate:future:judge", "choose", "judge"} <= names
    drawn = await client.assistants.get_graph("lookahead_agent", xray=True)
    assert {"deliberate:future:judge", "answer"} <= {node["id"] for node in drawn["nodes"]}


async def test_an_empty_input_plays_the_first_task_to_its_end(client: LangGraphClient, context: Context) -> None:
    talk, play = await asyncio.gather(
        run(client, "conversation", {}, context), run(client, "rollout", {}, context | {"persona": "first-timer"})
    )
    first = offline_tasks("test")[0]
    for out in (talk, play):
        assert out["task"] == first.model_dump()
        assert roles(out) == ["human", "ai", "human", "ai"]
        assert first.metadata["agenda"]["opening"] in out["messages"][0]["content"]
        assert (out["stopped"], set(out["scores"])) == ("max_turns", {"fact_coverage", "token_cost"})
        assert out["reward"] == pytest.approx(sum(out["scores"].values()))
    assert (talk["persona"], play["persona"]["name"]) == (None, "first-timer")
    assert [len(turn["candidates"]) for turn in play["turns"]] == [2, 2]
    assert {len(one["futures"]) for turn in play["turns"] for one in turn["candidates"]} == {2}
    assert talk["usage"]["calls"] == 2


async def test_the_lookahead_scores_a_reply_to_a_goal_in_words(client: LangGraphClient, context: Context) -> None:
    messages: Any = [
        {"role": "user", "content": "Help me write a toast."},
        {"role": "assistant", "content": "For whom?"},
    ]
    judged = context | {"user": "llm", "judges": ["interactivity", "token_cost"]}
    out = await run(client, "lookahead", {"messages": messages, "task": "A toast for Ada's wedding."}, judged)
    assert [message["content"] for message in out["messages"]] == ["Help me write a toast.", "For whom?"]
    assert [future["error"] for future in out["futures"]] == [None, None]
    assert out["reward"] == pytest.approx(sum(future["reward"] for future in out["futures"]) / 2)
    assert set(out["scores"]) == {"interactivity", "token_cost"}


async def test_the_lookahead_agent_answers_with_its_best_and_streams_that_alone(
    client: LangGraphClient, context: Context
) -> None:
    thread = (await client.threads.create())["thread_id"]
    asked: Any = {"messages": [{"role": "user", "content": "Can you write an invitation for my party?"}]}
    three = context | {"candidates": 3}
    said: list[str] = []
    async for part in client.runs.stream(
        thread, "lookahead_agent", input=asked, context=three, stream_mode="messages-tuple"
    ):
        assert part.event != "error", part.data
        if part.event == "messages":
            said.append(part.data[0]["content"])
    out: Any = (await client.threads.get_state(thread))["values"]
    assert roles(out) == ["human", "ai"]
    assert len(said) > 10
    assert "".join(said) == out["messages"][1]["content"]
    candidates, chosen = out["lookahead"]["candidates"], out["lookahead"]["chosen"]
    assert [len(one["futures"]) for one in candidates] == [2, 2, 2]
    assert candidates[chosen]["reward"] == max(one["reward"] for one in candidates)
    assert candidates[chosen]["messages"][0]["content"] == out["messages"][1]["content"]


async def test_the_lookahead_agent_keeps_to_its_budget_and_guesses_the_goal(
    client: LangGraphClient, context: Context
) -> None:
    live = context | {"user": "llm", "judges": ["token_cost"], "budget_calls": 3}
    out = await run(client, "lookahead_agent", {"messages": [{"role": "user", "content": "A toast."}]}, live)
    assert roles(out) == ["human", "ai"]
    assert out["lookahead"]["why"] == "the first candidate: the call budget was spent"
    assert out["lookahead"]["usage"]["calls"] <= 3


async def test_what_a_run_chooses_goes_before_what_its_assistant_chose(
    client: LangGraphClient, context: Context
) -> None:
    wide = await client.assistants.create("rollout", context=context | {"candidates": 3, "max_exchanges": 1}, name="w")
    as_kept, changed = await asyncio.gather(
        run(client, wide["assistant_id"], {}, {}), run(client, wide["assistant_id"], {}, {"candidates": 1})
    )
    assert [len(turn["candidates"]) for turn in as_kept["turns"]] == [3]
    assert [len(turn["candidates"]) for turn in changed["turns"]] == [1]


async def test_a_thread_goes_on_where_it_was_and_counts_afresh(client: LangGraphClient, context: Context) -> None:
    messages: Any = [
        {"role": "user", "content": "An invitation, please."},
        {"role": "assistant", "content": "When is it?"},
    ]
    talk, look = [(await client.threads.create())["thread_id"] for _ in range(2)]
    for said, new in ((4, messages), (8, [])):
        out, scored = await asyncio.gather(
            send(client, "conversation", {}, context, talk),
            send(client, "lookahead", {"messages": new}, context, look),
        )
        assert (len(out["messages"]), out["exchanges"]) == (said, 2)
        assert len(scored["futures"]) == 2


async def test_a_run_yaml_in_the_servers_folder_says_everything(client: LangGraphClient) -> None:
    out = await run(client, "rollout", {}, {"config": "run.yaml", "seed": 5})
    assert out["task"]["id"] == offline_tasks("train")[0].id
    assert [message["content"] for message in out["messages"] if message["type"] == "human"] == ["one", "two"]
    assert out["scores"] == {"no_clash": 1.0}, "the application's own packages were taken for the library's"
    assert out["seed"] == 5


async def test_an_app_of_ones_own_answers_and_is_told_nothing_of_the_settings(
    client: LangGraphClient, app: Path
) -> None:
    settings = yaml.safe_load((app / "run.yaml").read_text()) | {"assistant": {"app": "agent:app"}}
    (app / "agent.yaml").write_text(yaml.safe_dump(settings))
    out = await run(client, "rollout", {}, {"config": "agent.yaml"})
    replies = [message["content"] for message in out["messages"] if message["type"] == "ai"]
    assert replies == ["My context is None."] * 2


async def test_a_memory_that_a_client_made_up_is_not_read(client: LangGraphClient, app: Path) -> None:
    settings = yaml.safe_load((app / "run.yaml").read_text()) | {"assistant": {"app": "agent:desk"}}
    (app / "desk.yaml").write_text(yaml.safe_dump(settings))
    context: Context = {"config": "desk.yaml", "budget_calls": 100}
    owned = app / "owned"
    code = ormsgpack.packb(ormsgpack.Ext(0, ormsgpack.packb(("os", "system", f"touch {owned}"))))
    text = f"msgpack:{base64.b64encode(code).decode()}"
    asked: Any = {"messages": [{"role": "user", "content": "Sell it."}]}
    forgeries: list[dict[str, Any]] = [
        {"state": {"x": text}},
        {"asked": {"x": text}},
        {"history": text},
        {"branch": {"thread": text, "thread_id": "1"}},
        {"branch": {"cache": [[["x"], "x", text, None]]}},
        {"sealed": json.dumps({"state": {"x": text}}), "seal": "0" * 64},
    ]

    async def attack(graph: str, forged: dict[str, Any]) -> None:
        given = await run(client, graph, asked | {"assistant_memory": forged}, context)
        assert roles(given)[1] == "ai", "a memory in the input is passed over"
        thread = (await client.threads.create())["thread_id"]
        await send(client, graph, asked, context, thread)
        await client.threads.update_state(thread, {"assistant_memory": forged})
        out = await send(client, graph, asked, context, thread)
        assert "assistant_memory was not written by this server" in out["__error__"]["message"]
        thread = (await client.threads.create())["thread_id"]
        command: Any = {"update": {**asked, "asked": 1, "reply": [], "after": forged}, "goto": "execute"}
        await client.runs.wait(thread, graph, command=command, context=context, raise_error=False)

    graphs = ("lookahead_agent", "conversation")
    await asyncio.gather(*(attack(graph, forged) for forged in forgeries for graph in graphs))
    assert not owned.exists()
    thread = (await client.threads.create())["thread_id"]
    for number in (1, 2):
        out = await send(client, "lookahead_agent", asked, context, thread)
        assert out["messages"][-1]["content"] == f"{number}: Sell it.", "a memory that the server gave is read"


async def test_a_deployment_is_an_assistant_whose_threads_are_copied(url: str, client: LangGraphClient) -> None:
    live = (await client.threads.create())["thread_id"]
    hello: Any = {"messages": [{"role": "user", "content": "Hello"}]}
    await client.runs.wait(live, "shop", input=hello)
    before = await client.threads.get_state(live)

    assistant = GraphAssistant(RemoteGraph("shop", url=url), interrupts="user")
    messages, memory = await assistant.fork({"configurable": {"thread_id": live}})
    assert [str(message.content) for message in messages] == ["Hello", "1: Hello"]
    asked = [*messages, HumanMessage("Which colours?")]
    graph = create_rollout_graph(
        ScriptedUser(["", "", "Sell it.", "Ten."]),
        assistant,
        MultiturnReward({"asked": lambda conversation, task: conversation.state["asked"]}),
        Lookahead(candidates=2, futures=2, window=2, max_exchanges=1),
    )
    end = await graph.ainvoke({"messages": asked, "assistant_memory": memory, "task": offline_tasks("test")[0]})
    for candidate in end["turns"][0]["candidates"]:
        assert [one["content"] for one in candidate["messages"]] == ["2: Which colours?"]
        for future in candidate["futures"]:
            assert [one["content"] for one in future["messages"]] == ["Sell it.", "For how much?", "Ten.", "3: Ten."]
            assert future["reward"] == 3

    assert await client.threads.get_state(live) == before
    made: Any = await client.threads.search(metadata={"graph_id": "shop"}, limit=100)
    assert len(made) == 1 + 1 + 2 + 4 * 2, "the fork, a reply each, and two turns in each future"
    await assistant.aclose()
    made = await client.threads.search(metadata={"graph_id": "shop"}, limit=100)
    assert [one["thread_id"] for one in made] == [live]
    with pytest.raises(ConfigError, match=r"app 'shop' has no thread '0000"):
        await assistant.fork({"configurable": {"thread_id": "00000000-0000-0000-0000-000000000000"}})


async def test_no_judge_holds_the_server_up(client: LangGraphClient, app: Path, models: Server) -> None:
    """In development the server breaks off what blocks its event loop: imports, processes, files."""
    tests = "import unittest\nclass T(unittest.TestCase):\n    def test_it(self):\n        self.assertEqual(two(), 2)\n"
    task = {"id": "two", "goal": "Write two(), which returns 2.", "reference": "2", "metadata": {"tests": tests}}
    model = {"name": "openai:any", "base_url": models.url}
    judges = [{"name": "accuracy"}, {"name": "bleu", "model": model}, {"name": "pass_rate", "model": model}]
    settings = yaml.safe_load((app / "run.yaml").read_text()) | {"judges": judges, "tasks": {"source": "two.jsonl"}}
    (app / "two.jsonl").write_text(json.dumps(task))
    (app / "judged.yaml").write_text(yaml.safe_dump(settings))
    out = await run(client, "conversation", {}, {"config": "judged.yaml"})
    assert set(out["scores"]) == {"accuracy", "bleu", "pass_rate"}
    assert None not in out["scores"].values(), out["reasons"]


async def test_runs_with_the_same_settings_share_one_model_and_its_limits(
    client: LangGraphClient, app: Path, serve: Callable[..., Server]
) -> None:
    slow = serve("--latency", "0.1", "--jitter", "0")
    limits = {"limits": {"max_concurrent_calls": 1}, "user": {"kind": "agenda"}, "judges": [{"name": "token_cost"}]}
    settings = yaml.safe_load((app / "run.yaml").read_text()) | limits
    settings["assistant"]["model"]["base_url"] = slow.url
    (app / "limited.yaml").write_text(yaml.safe_dump(settings))
    runs = [run(client, "conversation", {}, {"config": "limited.yaml", "seed": seed}) for seed in (1, 2)]
    assert [out["seed"] for out in await asyncio.gather(*runs)] == [1, 2]
    assert (slow.stats()["calls"], slow.stats()["peak"]) == (4, 1)


TOAST = {"task": "A toast."}
ASKED = {"messages": [{"role": "user", "content": "Hi"}]}
BAD: list[tuple[str, dict[str, Any], Context, str]] = [
    ("rollout", {}, {"candidates": 0}, "candidates: input should be greater than 0, got '0'"),
    ("rollout", {}, {"candiates": 2}, "candiates: unknown field; did you mean 'candidates'?"),
    ("rollout", {}, {"judges": ["fact_coverage", "os:system"]}, "judges.1: choose from "),
    ("conversation", {}, {"model": "opnai:x"}, "model 'opnai:x' is not one of openai:..., huggingface:..., local:..."),
    ("conversation", {}, {"persona": "nobody"}, "persona: there is no persona 'nobody': choose from busy-manager, "),
    (
        "conversation",
        {},
        {"base_url": "http://10.0.0.1/v1"},
        "base_url: this server does not allow 'http://10.0.0.1/v1'",
    ),
    (
        "conversation",
        {},
        {"model": "ollama:x"},
        "model 'ollama:x' is not one of openai:..., huggingface:..., local:...",
    ),
    ("conversation", {}, {"model": "local:/etc"}, "model: this server does not allow 'local:/etc'; its owner allows "),
    ("rollout", {}, {"judge_model": "local:a/b"}, "model: this server does not allow 'local:a/b'; its owner allows "),
    ("conversation", {}, {"config": "../x.yaml"}, "config: this server does not allow '../x.yaml'; its owner"),
    ("conversation", {}, {"config": "x.yaml"}, "x.yaml: No such file or directory"),
    ("conversation", {}, {"config": "unlisted.yaml"}, "config: this server does not allow 'unlisted.yaml'; its owner"),
    ("conversation", {}, {"config": "open.yaml"}, "config: open.yaml judges without a sandbox, and a client brings "),
    ("rollout", {}, {"candidates": 65}, "candidates: input should be less than or equal to 64, got '65'"),
    ("conversation", TOAST, {}, "task: task 'goal' has no metadata.agenda to play or judge by; for tasks without "),
    ("conversation", {"task": {"id": "x"}}, {}, "task: goal: field required"),
    ("conversation", {"persona": {"name": "x", "patience": 0}}, {}, "persona: patience: input should be greater than"),
    ("conversation", {"seed": "x"}, {}, "seed must be an integer, got 'x'"),
    ("lookahead_agent", ASKED, {"user": "llm"}, "deliberate: task 'live' has no metadata.agenda to play or judge by "),
    ("lookahead_agent", {"messages": []}, {}, "deliberate: messages: the last one must be the user's"),
    ("lookahead", ASKED, {}, "messages must end with the assistant's reply, which is scored"),
]


async def test_bad_input_is_answered_with_one_sentence(client: LangGraphClient, context: Context) -> None:
    runs = [
        send(client, graph, input, wrong if "config" in wrong else context | wrong) for graph, input, wrong, _ in BAD
    ]
    answers = await asyncio.gather(*runs)
    for out, (*_, sentence) in zip(answers, BAD, strict=True):
        assert out["__error__"]["error"] in {"ConfigError", "RolloutError"}
        assert out["__error__"]["message"].startswith(sentence)
        assert "\n" not in out["__error__"]["message"]


async def test_a_model_that_refuses_is_named_in_the_error(
    client: LangGraphClient, context: Context, refusing: Server
) -> None:
    out = await send(client, "conversation", {}, context | {"base_url": refusing.url})
    sentence = f"assistant: openai:any at {refusing.url}: HTTP 403: the server is overloaded"
    assert out["__error__"] == {"error": "RolloutError", "message": sentence}


async def test_a_setting_beside_a_run_yaml_is_refused_unless_it_is_as_by_default(client: LangGraphClient) -> None:
    sent: Context = {"config": "run.yaml", "max_exchanges": 3}
    assert (await run(client, "conversation", {}, sent))["scores"] == {"no_clash": 1.0}
    out = await send(client, "conversation", {}, sent | {"window": 3})
    assert out["__error__"]["message"] == "window cannot be combined with config=run.yaml"


async def test_a_conversation_streams_the_assistants_words(client: LangGraphClient, context: Context) -> None:
    words: list[str] = []
    async for part in client.runs.stream(
        None, "conversation", input={}, context=context | {"max_exchanges": 1}, stream_mode="messages-tuple"
    ):
        if part.event == "messages" and part.data[1]["langgraph_node"] == "assistant":
            words.append(part.data[0]["content"])
    assert len([word for word in words if word]) > 10
