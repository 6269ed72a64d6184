"""A loopback server with OpenAI's chat completions API and a model that makes words up.

It waits, fails, answers garbage and drops connections as told; it counts calls and their greatest number at once,
and finds out how much of each prompt a prefix cache could not have reused. Run it as a process of its own:

    python -m benchmarks.server --port 8111 --latency 0.2 --jitter 0.5

GET /stats tells the counts, POST /reset begins anew.
"""

import argparse
import asyncio
import hashlib
import json
import random
from typing import Any

from aiohttp import web

WORDS = """
    the a plan letter draft please date place time garden window river number list of with for and or about
    when where which friend teacher morning evening blue quiet early number order change keep leave add write
    send ask
""".split()
BLOCK = 256


class Model:
    """Answers as a prompt asks: with one JSON object that has the fields anybody reads, or with plain words."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.blocks: set[bytes] = set()
        self.log: list[dict[str, Any]] = []
        self.reset()

    def reset(self) -> None:
        self.calls = self.answered = self.errors = self.garbage = self.drops = self.active = self.peak = 0
        self.characters = self.unreusable = 0
        self.blocks.clear()
        self.log.clear()

    def stats(self) -> dict[str, int]:
        names = ["calls", "answered", "errors", "garbage", "drops", "peak", "characters", "unreusable"]
        return {name: getattr(self, name) for name in names}

    def read(self, messages: list[dict[str, Any]]) -> str:
        """Note a prompt, and how many of its characters stand in blocks that no earlier prompt began with."""
        prompt = "".join(f"<{message['role']}>{message['content']}" for message in messages)
        self.characters += len(prompt)
        digest = hashlib.blake2b(digest_size=16)
        reusable = 0
        missed = False
        for start in range(0, len(prompt) - BLOCK + 1, BLOCK):
            digest.update(prompt[start : start + BLOCK].encode())
            key = digest.digest()
            missed = missed or key not in self.blocks
            reusable += 0 if missed else BLOCK
            self.blocks.add(key)
        self.unreusable += len(prompt) - reusable
        return prompt

    def answer(self, prompt: str, seed: int | None, call: int) -> str:
        chance = random.Random(f"{seed}{prompt}" if self.options.deterministic else call)
        if "JSON" not in prompt[-3000:] and "JSON" not in prompt[:2000]:
            return _words(chance, 60)
        answer = {
            "current_answer": _words(chance, 10),
            "thought": _words(chance, 25),
            "response": _words(chance, 20),
            "end_conversation": False,
            "reason": _words(chance, 15),
            "interactivity": round(chance.random(), 2),
            "final_completion": _words(chance, 60),
            "correct": chance.random() < 0.5,
            "asks": chance.random() < 0.5,
        }
        if "simulated_input" in prompt:  # DeepEval's. The answers that recorded runs were given did not have it.
            answer["simulated_input"] = _words(chance, 20)
        if '"faults"' in prompt:  # Nor this one.
            kinds = ["contradicts", "repeats", "speaks_as_assistant"]
            fault = {"kind": chance.choice(kinds), "message": 2, "reason": _words(chance, 10)}
            answer["faults"] = [fault] if chance.random() < 0.5 else []
        return json.dumps(answer)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = self.read(body["messages"])
        if self.options.log:
            self.log.append(body | {"authorization": request.headers.get("Authorization")})
        self.calls += 1
        call = self.calls
        self.active += 1
        self.peak = max(self.peak, self.active)
        fate = random.Random(f"fate {call}").random()
        options = self.options
        try:
            if call > options.answered:
                await asyncio.Event().wait()
            await asyncio.sleep(options.latency * (1 + options.jitter * random.expovariate(1)))
        finally:
            self.active -= 1
        if fate < options.error_rate:
            self.errors += 1
            headers = {"Retry-After": options.retry_after} if options.retry_after else {}
            error = {"error": {"message": "the server is overloaded", "type": "server_error"}}
            return web.json_response(error, status=options.error_status, headers=headers)
        fate -= options.error_rate
        if fate < options.drop_rate:
            self.drops += 1
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        fate -= options.drop_rate
        words = self.answer(prompt, body.get("seed"), call)
        if fate < options.garbage_rate:
            self.garbage += 1
            words = "Sorry, " + _words(random.Random(call), 12)
        self.answered += 1
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(words) // 4}
        usage["total_tokens"] = sum(usage.values())
        message: dict[str, Any] = {"role": "assistant", "content": words}
        if options.call_tools and body.get("tools") and body["messages"][-1]["role"] != "tool":
            message["tool_calls"] = [_tool_call(body["tools"][0]["function"], call)]
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        if body.get("stream"):
            return await self.stream(request, words, usage)
        reply = {"id": f"c{call}", "object": "chat.completion", "created": 0, "model": body.get("model")}
        return web.json_response(reply | {"choices": [choice], "usage": usage})

    async def stream(self, request: web.Request, words: str, usage: dict[str, int]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        base = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "any"}
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": word + " "} for word in words.split()]
        chunks = [base | {"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        chunks.append(base | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        for chunk in [*chunks, base | {"choices": [], "usage": usage}]:
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
            await asyncio.sleep(self.options.word_latency)
        await response.write(b"data: [DONE]\n\n")
        return response


def _tool_call(function: dict[str, Any], call: int) -> dict[str, Any]:
    """A call of the tool, with the call's number for every argument."""
    arguments = dict.fromkeys(function["parameters"]["properties"], str(call))
    called = {"name": function["name"], "arguments": json.dumps(arguments)}
    return {"id": f"call{call}", "type": "function", "function": called}


def _words(chance: random.Random, count: int) -> str:
    return " ".join(chance.choices(WORDS, k=count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8111)
    parser.add_argument("--latency", type=float, default=0.2, help="least seconds to an answer")
    parser.add_argument("--jitter", type=float, default=0.5, help="mean of the exponential tail on top, as a share")
    parser.add_argument("--word-latency", type=float, default=0.0, help="seconds between the words of a stream")
    parser.add_argument("--error-rate", type=float, default=0.0)
    parser.add_argument("--error-status", type=int, default=503)
    parser.add_argument("--retry-after", default="")
    parser.add_argument("--garbage-rate", type=float, default=0.0, help="answers that are not what was asked for")
    parser.add_argument("--drop-rate", type=float, default=0.0, help="connections closed without an answer")
    parser.add_argument("--deterministic", action="store_true", help="the same prompt and seed get the same answer")
    parser.add_argument("--call-tools", action="store_true", help="call the first tool before answering in words")
    parser.add_argument("--answered", type=int, default=1 << 62, help="calls after these hang for ever")
    parser.add_argument("--log", action="store_true", help="keep the requests, for GET /log")
    model = Model(parser.parse_args())

    async def stats(_: web.Request) -> web.Response:
        return web.json_response(model.stats())

    async def log(_: web.Request) -> web.Response:
        return web.json_response(model.log)

    async def reset(_: web.Request) -> web.Response:
        model.reset()
        return web.json_response({})

    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/chat/completions", model.complete)
    app.router.add_post("/", model.complete)  # A dedicated Hugging Face endpoint is called at its own address.
    app.router.add_get("/stats", stats)
    app.router.add_get("/log", log)
    app.router.add_post("/reset", reset)
    web.run_app(app, host="127.0.0.1", port=model.options.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
