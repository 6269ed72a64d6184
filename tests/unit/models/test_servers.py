"""Model servers as they are: their errors, streams and keys, and replies that no client expects."""

import asyncio
import gc
import gzip
import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from collab_agents import Limits, load_chat_model
from collab_agents.errors import ConfigError, ModelError
from collab_agents.models import LimitedChatModel, check_chat_model, limited
from collab_agents.models.limits import _pause
from collab_agents.models.openai import Refused
from collab_agents.usage import Usage, track_usage
from tests.support.recording import Answer, Recording, Request, chunk, completion, recording, streamed

PROVIDERS = ("openai:any", "huggingface:some/model")


def served(server: Recording, name: str = "openai:any", **options: Any) -> LimitedChatModel:
    # Hugging Face's client adds the /v1 itself.
    address = server.url if name.startswith("openai") else server.root
    return load_chat_model(name, base_url=address, **options)


def speaking(**usage: Any) -> Callable[[Request], Answer]:
    """A server that streams, and reports its usage if it is asked to."""

    def answer(request: Request) -> Answer:
        if not request.body.get("stream"):
            return Answer(completion())
        asked = (request.body.get("stream_options") or {}).get("include_usage")
        counts = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        last = [chunk(choices=[], usage=counts)] if asked else []
        return streamed(chunk("Hel"), chunk("lo."), *last)

    return answer


@pytest.mark.parametrize("key", ["sk-given-key", None])
@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_server_is_sent_the_key_that_was_given_and_no_other(
    name: str, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "OPENAI_API_KEY", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(variable, "of-the-environment")
    with recording(speaking()) as server:
        model = served(server, name, api_key=key)
        await model.ainvoke("hi")
        [one async for one in model.astream("hi")]
        await asyncio.to_thread(model.invoke, "hi")
        await asyncio.to_thread(lambda: list(model.stream("hi")))
        with suppress(Exception):  # Through the SDK; what is answered is no Verdict.
            await model.with_structured_output(Verdict, method="json_schema").ainvoke("hi")
    assert len(server.requests) >= 5
    for request in server.requests:
        sent = request.headers.get("authorization", "")
        assert sent == (f"Bearer {key}" if key else "")
        assert "of-the-environment" not in str(request.headers)


@pytest.mark.parametrize("name", PROVIDERS)
async def test_streams_are_counted_and_limited_sync_ones_too(name: str) -> None:
    with recording(speaking()) as server:
        model = served(server, name)
        with track_usage() as usage:
            assert "".join(str(one.content) for one in [one async for one in model.astream("hi")]) == "Hello."
            assert await asyncio.to_thread(lambda: "".join(str(one.content) for one in model.stream("hi"))) == "Hello."
    assert usage == Usage(calls=2, input_tokens=14, output_tokens=6)


async def test_a_server_that_refuses_to_report_a_streams_usage_is_asked_once_and_the_tokens_are_unknown() -> None:
    def refuses(request: Request) -> Answer:
        if "stream_options" in request.body:
            return Answer({"error": {"message": "unknown field stream_options"}}, 400)
        return streamed(chunk("Hello."))

    with recording(refuses) as server:
        model = served(server)
        with track_usage() as usage:
            for _ in range(3):
                assert [one async for one in model.astream("hi")]
    assert len(server.requests) == 4
    assert usage == Usage(calls=3, unreported=3)


async def test_a_streams_first_words_are_asked_for_again_whatever_came_instead() -> None:
    answers = [
        Answer({}, 503, {"retry-after": "Mon, 01 Jan 99999 00:00:00 GMT"}),
        streamed(),
        streamed({"error": {"message": "too many", "code": "rate_limit_exceeded"}}),
        streamed(chunk("x" * 300_000)),
    ]
    with recording(lambda request: answers.pop(0)) as server:
        model = load_chat_model("openai:any", base_url=server.url, limits=Limits(max_retries=3))
        assert sum([len(str(one.content)) async for one in model.astream("hi")]) == 300_000
        assert answers == []
        server.answer = lambda request: streamed()
        hurried = load_chat_model("openai:any", base_url=server.url, limits=Limits(max_retries=0))
        with pytest.raises(ModelError, match="the server's stream has no chunk"):
            await anext(hurried.astream("hi"))


async def test_every_attempt_at_a_stream_keeps_to_the_rate() -> None:
    answers = [Answer({}, 503), Answer({}, 503), streamed(chunk("Hello."))]
    with recording(lambda request: answers.pop(0)) as server:
        model = load_chat_model("openai:any", base_url=server.url, limits=Limits(requests_per_minute=2))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(6):
                await anext(model.astream("hi"))
        assert len(server.requests) == 2


async def test_a_sync_stream_is_tried_again_and_can_be_left() -> None:
    answers = [Answer({}, 503), streamed(chunk("a"), chunk("b"), chunk("c"))]
    with recording(lambda request: answers.pop(0)) as server:
        model = served(server, limits=Limits(max_retries=2))

        def first() -> str:
            for one in model.stream("hi"):
                return str(one.content)
            return ""

        assert await asyncio.to_thread(first) == "a"
    assert answers == []


def test_pauses_after_too_many_requests_outlast_a_minute() -> None:
    error = Refused(429, {}, b"{}")
    for _ in range(100):
        assert 60 <= sum(_pause(error, tries) for tries in range(1, 1 + Limits().max_retries)) < 100
    assert _pause(Refused(429, {"retry-after": "3"}, b"{}"), 1) < 4


ERRORS: dict[str, tuple[Any, str]] = {
    "OpenAI": ({"error": {"message": "no such model", "code": 1}}, "no such model"),
    "a text": ({"error": "no such model"}, "no such model"),
    "FastAPI": ({"detail": "no such model"}, "no such model"),
    "FastAPI's fields": ({"detail": [{"loc": ["body", "top_p"], "msg": "too large"}]}, "body.top_p: too large"),
    "a message": ({"message": "no such model"}, "no such model"),
    "plain text": ("no such model", "no such model"),
}


@pytest.mark.parametrize("form", ERRORS)
@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_servers_words_are_in_the_error_of_every_kind_of_call(name: str, form: str) -> None:
    body, words = ERRORS[form]
    with recording(lambda request: Answer(body, 400)) as server:
        model = served(server, name)
        said = set()
        for call in (
            lambda: model.ainvoke("hi"),
            lambda: anext(model.astream("hi")),
            lambda: asyncio.to_thread(model.invoke, "hi"),
            lambda: asyncio.to_thread(lambda: next(model.stream("hi"))),
        ):
            with pytest.raises(ModelError) as error:
                await call()
            said.add(str(error.value))
        address = server.url if name.startswith("openai") else server.root
        assert said == {f"{name} at {address}: HTTP 400: {words}"}


async def test_too_many_requests_name_the_limit_that_helps() -> None:
    with recording(lambda request: Answer({"detail": "slow down"}, 429)) as server:
        model = served(server, limits=Limits(max_retries=0))
        with pytest.raises(ModelError, match=r"HTTP 429: slow down; set limits\.requests_per_minute to what"):
            await model.ainvoke("hi")


async def test_an_address_without_v1_is_joined_properly_and_suspected() -> None:
    with recording(lambda request: Answer({"detail": "Not Found"}, 404)) as server:
        for address in (server.root, server.root + "/"):
            model = load_chat_model("openai:any", base_url=address)
            for call in (model.ainvoke("hi"), anext(model.astream("hi")), check_chat_model(model)):
                with pytest.raises(ModelError, match=r"HTTP 404: Not Found \(base_url is .*, without the /v1 that"):
                    await call
        assert {request.path for request in server.requests} == {"/chat/completions"}


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_server_that_is_not_there_is_said_without_ssl(name: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    model = load_chat_model(name, base_url=address, limits=Limits(max_retries=0))
    for call in (model.ainvoke("hi"), anext(model.astream("hi"))):
        with pytest.raises(ModelError, match="cannot connect") as error:
            await call
        assert "ssl" not in str(error.value).lower()


async def test_a_redirect_is_not_followed() -> None:
    with (
        recording() as other,
        recording(lambda request: Answer({"detail": "moved"}, 307, {"location": other.url})) as server,
    ):
        with pytest.raises(ModelError, match=f"redirects are not followed: set base_url to {other.url}"):
            await served(server, api_key="sk-given-key").ainvoke("hi")
        with pytest.raises(ModelError):
            await anext(served(server, api_key="sk-given-key").astream("hi"))
    assert other.requests == []


async def test_a_reply_without_end_is_cut_off() -> None:
    bomb = gzip.compress(bytes(600 << 20), 9)
    with recording(lambda request: Answer(bomb, headers={"content-encoding": "gzip"})) as server:
        with pytest.raises(ModelError, match=r"the server's answer is larger than 32 MB"):
            await served(server, limits=Limits(max_retries=0)).ainvoke("hi")
        server.answer = lambda request: Answer(bytes(40 << 20))
        with pytest.raises(ModelError, match=r"the server's answer is larger than 32 MB"):
            await served(server, limits=Limits(max_retries=0)).ainvoke("hi")
        packed = gzip.compress(json.dumps(completion("Fine.")).encode())
        server.answer = lambda request: Answer(packed, headers={"content-encoding": "gzip"})
        assert (await served(server).ainvoke("hi")).content == "Fine."
        assert server.requests[-1].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("count", ["1e308", "-5", '"7"', "null", "1e12"])
async def test_a_servers_count_is_taken_for_what_there_can_be(count: str) -> None:
    body = json.dumps(completion()).replace('"prompt_tokens": 7', f'"prompt_tokens": {count}')
    body = body.replace('"completion_tokens": 3', f'"completion_tokens": {count}')
    with recording(lambda request: Answer(body)) as server, track_usage() as usage:
        try:
            reply = await served(server, limits=Limits(max_retries=0)).ainvoke("hi")
        except ModelError:
            return  # A reply that no reader takes for one.
        counted: Any = reply.usage_metadata or {}
        for number in (usage.input_tokens, usage.output_tokens, counted.get("output_tokens", 0)):
            assert isinstance(number, int)
            assert 0 <= number <= 10**9


class Verdict(BaseModel):
    reason: str
    score: float = 0.5


@pytest.mark.parametrize(
    ("texts", "calls"),
    [(['{"score": 0.5, "reason": "it goes o'], 1), (["{", '{"score": 0.5, "reason": "fine"}'], 2)],
)
async def test_a_structured_reply_that_is_cut_is_repaired_or_asked_again_and_counted(
    texts: list[str], calls: int
) -> None:
    left = list(texts)

    def cut(request: Request) -> Answer:
        text = left.pop(0)
        whole = text.endswith("}")
        choice = {"finish_reason": "stop" if whole else "length", "message": {"role": "assistant", "content": text}}
        return Answer(completion(choice=choice))

    with recording(cut) as server, track_usage() as usage:
        verdict: Any = await served(server).with_structured_output(Verdict, method="json_schema").ainvoke("hi")
    assert verdict.score == 0.5
    assert verdict.reason
    assert usage == Usage(calls=calls, input_tokens=7 * calls, output_tokens=3 * calls)
    with recording(lambda request: Answer(completion(choice={"finish_reason": "length"}))) as server:
        structured = served(server, limits=Limits(max_retries=1)).with_structured_output(Verdict, method="json_schema")
        with pytest.raises(ModelError, match="the reply was cut at its length and is not a Verdict"):
            await structured.ainvoke("hi")


async def test_the_connections_of_a_model_close_when_it_is_dropped() -> None:
    with recording() as server:
        before = len(os.listdir("/proc/self/fd"))
        gc.disable()
        try:
            for _ in range(30):
                await served(server).ainvoke("hi")
                await asyncio.sleep(0.01)
            # The server's side of each connection is in this process too.
            for _ in range(100):
                await asyncio.sleep(0.1)
                if (left := len(os.listdir("/proc/self/fd")) - before) <= 12:
                    break
        finally:
            gc.enable()
        assert left <= 12, f"{left} file descriptors are open"


async def test_any_provider_of_langchain_is_loaded_by_name_and_keeps_to_the_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(request: Request) -> Answer:
        if len(server.requests) == 1:
            return Answer({"type": "error", "error": {"message": "busy"}}, 529)
        usage = {"input_tokens": 7, "output_tokens": 3}
        said = {"id": "x", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn"}
        return Answer(said | {"content": [{"type": "text", "text": "Hello."}], "usage": usage})

    with recording(answer) as server, track_usage() as usage:
        limits = Limits(max_retries=2)
        model = load_chat_model("anthropic:claude", base_url=server.root, api_key="sk-given-key", limits=limits)
        assert (await model.ainvoke("hi")).text == "Hello."
        assert [request.headers["authorization"] for request in server.requests] == ["Bearer sk-given-key"] * 2
        monkeypatch.setenv("ANTHROPIC_API_KEY", "of-the-environment")
        await load_chat_model("anthropic:claude", base_url=server.root).ainvoke("hi")
        assert "of-the-environment" not in str(server.requests[-1].headers)
        server.answer = lambda request: Answer({"error": {"message": "no such model"}}, 404)
        with pytest.raises(ModelError, match=r"anthropic:claude at .*: HTTP 404: no such model"):
            await model.ainvoke("hi")
    assert usage == Usage(calls=2, input_tokens=14, output_tokens=6)
    with pytest.raises(ConfigError, match="langchain-cohere"):
        load_chat_model("cohere:command")
    with pytest.raises(ConfigError, match="model 'nobody:x' is not one of openai:<model>"):
        load_chat_model("nobody:x")


async def test_a_model_that_is_handed_over_keeps_to_limits_when_it_is_told_to() -> None:
    with recording() as server:
        inner = ChatOpenAI(model="any", base_url=server.url, api_key=SecretStr("k"), max_retries=0)
        model = limited(inner, Limits(requests_per_minute=2, max_retries=0))
        with track_usage() as usage:
            await asyncio.gather(*(model.ainvoke("hi") for _ in range(2)))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(model.ainvoke("hi"), 0.3)
        assert usage.calls == 2
        assert limited(model) is model
        bound: Any = limited(inner).bind_tools([Verdict])
        await bound.ainvoke("hi")
        assert server.requests[-1].body["tools"][0]["function"]["name"] == "Verdict"
