"""Chat models: how they are loaded by name, limited, tried again and counted."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from benchmarks.process import Server
from collab_agents import ChatAssistant, Limits, load_chat_model
from collab_agents.errors import ConfigError, ModelError
from collab_agents.models import LimitedChatModel, check_chat_model
from collab_agents.models.ask import invoke
from collab_agents.models.load import check_chat_models
from collab_agents.participants import AssistantContext
from collab_agents.usage import Usage, track_usage

Serve = Callable[..., Server]
USAGE = UsageMetadata(input_tokens=2, output_tokens=3, total_tokens=5)
HELLO = [SystemMessage("Be brief."), HumanMessage("Hello")]


def openai(server: Server, limits: Limits | None = None, **options: Any) -> LimitedChatModel:
    return load_chat_model("openai:any", base_url=server.url, limits=limits, **options)


async def test_an_openai_model_is_a_chat_openai_that_answers_and_counts(serve: Serve) -> None:
    model = openai(serve("--log"))
    assert isinstance(model, ChatOpenAI)
    with track_usage() as usage:
        reply = await model.ainvoke(HELLO)
    assert isinstance(reply, AIMessage)
    assert reply.usage_metadata is not None
    assert usage == Usage(1, reply.usage_metadata["input_tokens"], reply.usage_metadata["output_tokens"])


async def test_the_request_is_the_one_that_langchain_makes(serve: Serve) -> None:
    server = serve("--log")
    plain = ChatOpenAI(model="any", base_url=server.url, api_key=SecretStr("sk-mine"), temperature=0.3)
    for model in (plain, openai(server, temperature=0.3, api_key="sk-mine")):
        await model.ainvoke(HELLO, seed=7, stop=["END"])
    first, second = server.bodies()
    assert first == second
    assert first["authorization"] == "Bearer sk-mine"


class Hears(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.heard: list[str] = []

    async def on_chat_model_start(self, serialized: Any, messages: Any, **about: Any) -> None:
        self.heard.append("start")

    async def on_llm_end(self, response: Any, **about: Any) -> None:
        self.heard.append("end")


async def test_a_reply_is_the_same_whether_or_not_anything_listens(serve: Serve) -> None:
    server, hears = serve("--deterministic"), Hears()
    alone = await openai(server).ainvoke(HELLO, seed=7)
    for model, config in (
        (openai(server), RunnableConfig(callbacks=[hears])),
        (openai(server, callbacks=[hears]), None),
        (openai(server).bind_tools([]), RunnableConfig(callbacks=[hears])),
    ):
        hears.heard.clear()
        reply = await model.ainvoke(HELLO, config, seed=7)
        assert hears.heard == ["start", "end"]
        numbered = {"id": None}
        assert [reply.content, reply.usage_metadata] == [alone.content, alone.usage_metadata]
        assert reply.response_metadata | numbered == alone.response_metadata | numbered
    assert alone.response_metadata["finish_reason"] == "stop"
    assert (await openai(server).ainvoke("Hello")).text
    assert (await openai(server).ainvoke([HumanMessage([{"type": "text", "text": "Hello"}])])).text


async def test_a_key_from_the_environment_goes_to_its_own_provider_only(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    server = serve("--log")
    await openai(server).ainvoke(HELLO)
    assert not server.bodies()[0]["authorization"]


async def test_structured_outputs_and_streams_go_through_the_sdk(serve: Serve) -> None:
    class Verdict(BaseModel):
        interactivity: float

    model = openai(serve())
    prompt = "Answer in JSON."
    verdict = await model.with_structured_output(Verdict, method="json_mode").ainvoke(prompt)
    assert isinstance(verdict, Verdict)
    with track_usage() as usage:
        chunks = [chunk async for chunk in model.astream(prompt)]
    assert "".join(str(chunk.content) for chunk in chunks)
    assert usage.calls == 1


async def test_a_stream_is_tried_again_until_its_first_chunk(serve: Serve) -> None:
    model = openai(serve("--error-rate", "0.4", "--drop-rate", "0.1"), Limits(max_retries=30))
    for _ in range(5):
        assert [chunk async for chunk in model.astream(HELLO)]
    broken = openai(serve("--error-rate", "1"), Limits(max_retries=1))
    with pytest.raises(ModelError, match="after 2 attempts"):
        [chunk async for chunk in broken.astream(HELLO)]


def test_a_sync_call_keeps_to_the_same_limits_and_is_counted(serve: Serve) -> None:
    server = serve("--error-rate", "0.4")
    model = openai(server, Limits(max_retries=30))
    with track_usage() as usage:
        assert all(model.invoke(HELLO).content for _ in range(5))
    assert usage.calls == 5
    assert server.stats()["errors"]


async def test_an_answer_without_choices_is_tried_again() -> None:
    answers = [{"choices": []}, {"nonsense": 1}, {"choices": [{"message": {"role": "assistant", "content": "Hi"}}]}]

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(answers.pop(0))

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    reply = await load_chat_model("openai:any", base_url=f"http://127.0.0.1:{port}/v1").ainvoke(HELLO)
    assert reply.content == "Hi"
    await runner.cleanup()


async def test_trackers_nest_and_follow_tasks(serve: Serve) -> None:
    model = openai(serve())
    with track_usage() as outer:
        await model.ainvoke(HELLO)
        with track_usage() as inner:
            await asyncio.gather(*(model.ainvoke(HELLO) for _ in range(3)))
    assert (outer.calls, inner.calls) == (4, 3)


async def test_calls_at_once_stay_under_the_cap(serve: Serve) -> None:
    server = serve("--latency", "0.02")
    model = openai(server, Limits(max_concurrent_calls=3))
    await asyncio.gather(*(model.ainvoke(HELLO) for _ in range(20)))
    assert server.stats()["peak"] == 3


async def test_requests_per_minute_hold_back_what_is_too_much(serve: Serve) -> None:
    server = serve()
    model = openai(server, Limits(requests_per_minute=5))
    calls = [asyncio.create_task(model.ainvoke(HELLO)) for _ in range(8)]
    done, waiting = await asyncio.wait(calls, timeout=4)
    assert (len(done), len(waiting)) == (5, 3)
    for call in waiting:
        call.cancel()
    assert server.stats()["calls"] == 5


async def test_errors_and_dropped_connections_are_tried_again(serve: Serve) -> None:
    server = serve("--error-rate", "0.2", "--drop-rate", "0.15")
    model = openai(server, Limits(max_retries=30))
    await asyncio.gather(*(model.ainvoke(HELLO) for _ in range(20)))
    stats = server.stats()
    assert stats["answered"] == 20
    assert stats["errors"]
    assert stats["drops"]


async def test_a_pause_that_the_server_asks_for_is_kept(serve: Serve) -> None:
    server = serve("--error-rate", "1", "--error-status", "429", "--retry-after", "1")
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"HTTP 429: the server is overloaded \(after 3 attempts\)"):
        await openai(server, Limits(max_retries=2)).ainvoke(HELLO)
    assert time.monotonic() - started >= 2
    assert server.stats()["calls"] == 3


async def test_a_pause_longer_than_the_limit_ends_the_call(serve: Serve) -> None:
    server = serve("--error-rate", "1", "--error-status", "429", "--retry-after", "3600")
    with pytest.raises(ModelError, match="HTTP 429"):
        await openai(server).ainvoke(HELLO)
    assert server.stats()["calls"] == 1


async def test_what_another_try_cannot_mend_is_not_tried_again(serve: Serve) -> None:
    server = serve("--error-rate", "1", "--error-status", "400")
    with pytest.raises(ModelError, match=r"openai:any at http://127.0.0.1:\d+/v1: HTTP 400: the server is overloaded$"):
        await openai(server).ainvoke(HELLO)
    assert server.stats()["calls"] == 1


async def test_a_hung_server_is_left_after_the_timeout(serve: Serve) -> None:
    server = serve("--latency", "30")
    with pytest.raises(ModelError, match=r"no answer within limits\.timeout \(0\.2 s\) \(after 2 attempts\)"):
        await openai(server, Limits(timeout=0.2, max_retries=1)).ainvoke(HELLO)


def test_a_model_serves_one_event_loop_after_another(serve: Serve) -> None:
    model = openai(serve(), Limits(max_concurrent_calls=1))

    async def several() -> int:
        return len(await asyncio.gather(*(model.ainvoke(HELLO) for _ in range(3))))

    assert [asyncio.run(several()) for _ in range(2)] == [3, 3]


async def test_the_check_passes_a_server_that_answers_and_names_one_that_does_not(serve: Serve) -> None:
    await check_chat_model(openai(serve()))
    await check_chat_model(openai(serve("--error-rate", "1", "--error-status", "503")))
    for status in ("400", "401", "404"):
        with pytest.raises(ModelError, match=f"HTTP {status}: the server is overloaded"):
            await check_chat_model(openai(serve("--error-rate", "1", "--error-status", status)))
    with pytest.raises(
        ModelError, match=r"openai:any at http://127.0.0.1:9/v1: cannot connect to 127.0.0.1:9: Connection refused"
    ):
        await check_chat_model(load_chat_model("openai:any", base_url="http://127.0.0.1:9/v1"))


async def test_a_model_at_localhost_is_not_asked_where_other_machines_call_it() -> None:
    here, elsewhere = (
        load_chat_model("openai:any", base_url=f"http://{host}:9/v1") for host in ("localhost", "0.0.0.0")
    )
    await check_chat_models([here], calls_from_here=False)
    with pytest.raises(ModelError):
        await check_chat_models([here])
    with pytest.raises(ModelError):
        await check_chat_models([elsewhere], calls_from_here=False)


async def test_a_hugging_face_endpoint_answers_and_counts(serve: Serve) -> None:
    server = serve("--error-rate", "0.3")
    model = load_chat_model("huggingface:some/model", base_url=server.address, limits=Limits(max_retries=20))
    with track_usage() as usage:
        replies = await asyncio.gather(*(model.ainvoke(HELLO, seed=i) for i in range(6)))
    assert all(reply.content for reply in replies)
    assert usage.calls == 6
    assert usage.output_tokens > 0
    assert server.stats()["errors"]


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("gpt-4o", {}, "model 'gpt-4o' is not one of openai:<model>"),
        ("opnai:gpt-4o", {}, "did you mean 'openai'?"),
        ("openai:gpt-4o", {}, "set OPENAI_API_KEY"),
        ("huggingface:a/b", {}, "set HF_TOKEN"),
        ("openai:x", {"base_url": "http://127.0.0.1:9", "temprature": 1}, "did you mean 'temperature'?"),
        ("openai:x", {"base_url": "http://127.0.0.1:9", "timeout": 5}, "the option 'timeout' is set by limits"),
        ("openai:x", {"base_url": "http://127.0.0.1:9", "top_p": "abc"}, "top_p: input should be a valid number"),
        ("openai:x", {"base_url": "localhost:8000/v1"}, "is not an address such as http://localhost:8000/v1"),
        ("openai:x", {"base_url": "http://u:p@host/v1"}, "base_url holds a password"),
        ("local:./nowhere", {}, "the folder has no config.json"),
        ("local:smollm2", {"base_url": "http://127.0.0.1:9"}, "runs in this process"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_a_sentence(
    name: str, options: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ConfigError) as error:
        load_chat_model(name, **options)
    assert problem in str(error.value)


async def test_a_server_that_does_not_know_seeds_is_sent_none(serve: Serve) -> None:
    server = serve("--log")
    for seeded in (True, False):
        await invoke(openai(server, seeded=seeded), list(HELLO), seed=5)
    assert ["seed" in body for body in server.bodies()] == [True, False]


async def test_a_model_that_is_not_ours_plays_and_is_counted() -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("Hello.", usage_metadata=USAGE)]))
    with track_usage() as usage:
        replies, _ = await ChatAssistant(model).respond([HumanMessage("Hi")], {}, AssistantContext(seed=1))
    assert [reply.content for reply in replies] == ["Hello."]
    assert usage == Usage(1, 2, 3)
