"""A server with the API of `vllm serve` that TRL uses. It plays a small model, and gets weights over a socket.

    python -m tests.support.vllm_server FOLDER PORT

GET /log tells the completions, with the number of times that it had got weights. GET /future answers when the first
call of a future has come; these have a seed.
"""

import asyncio
import io
import json
import os
import random
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import torch
from aiohttp import web

from tests.support.vllm_stand_in.vllm.model import Model

ROOT = Path(__file__).parents[2]


class Served:
    """The state of the server."""

    def __init__(self, folder: str) -> None:
        self.model = Model(folder)
        self.log: list[dict[str, Any]] = []
        self.loads = 0
        self.updating = False
        self.future = asyncio.Event()
        self.chance = random.Random(0)

    def application(self) -> web.Application:
        application = web.Application(client_max_size=1 << 30)
        application.add_routes(
            [
                web.get("/health", self.nothing),
                web.get("/v1/models", self.models),
                web.get("/server_info", self.info),
                web.get("/get_world_size", self.world_size),
                web.post("/init_weight_transfer_engine", self.connect),
                web.post("/start_weight_update", self.start),
                web.post("/update_weights", self.update),
                web.post("/finish_weight_update", self.finish),
                web.post("/reset_prefix_cache", self.nothing),
                web.post("/v1/completions", self.complete),
                web.get("/log", self.told),
                web.get("/future", self.until_future),
            ]
        )
        return application

    async def nothing(self, request: web.Request) -> web.Response:
        return web.json_response({"success": True})

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "tiny", "max_model_len": self.model.context}]})

    async def info(self, request: web.Request) -> web.Response:
        config = {
            "weight_transfer_config": {"backend": "nccl"},
            "model_config": {"logprobs_mode": "processed_logprobs"},
        }
        return web.json_response({"vllm_config": config})

    async def world_size(self, request: web.Request) -> web.Response:
        return web.json_response({"world_size": 1})

    async def connect(self, request: web.Request) -> web.Response:
        info = (await request.json())["init_info"]
        while True:  # The trainer may not listen yet.
            try:
                self.reader, self.writer = await asyncio.open_connection(info["master_address"], info["master_port"])
                return web.json_response({})
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)

    async def start(self, request: web.Request) -> web.Response:
        self.updating = True
        return web.json_response({})

    async def update(self, request: web.Request) -> web.Response:
        assert self.updating
        info = (await request.json())["update_info"]
        for name, shape in zip(info["names"], info["shapes"], strict=True):
            size = int.from_bytes(await self.reader.readexactly(8), "big")
            weights = torch.load(io.BytesIO(await self.reader.readexactly(size)), weights_only=True)
            assert list(weights.shape) == shape
            self.model.load(name, weights)
        return web.json_response({})

    async def finish(self, request: web.Request) -> web.Response:
        self.updating = False
        self.loads += 1
        return web.json_response({})

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert not self.updating
        seed = body.get("seed")
        if seed is not None:
            self.future.set()
        prompts = [body["prompt"]] if isinstance(body["prompt"][0], int) else body["prompt"]
        choices = [self.choice(prompt, body, seed) for prompt in prompts for _ in range(body.get("n", 1))]
        return web.json_response({"choices": choices})

    def choice(self, prompt: list[int], body: dict[str, Any], seed: int | None) -> dict[str, Any]:
        own = self.chance.getrandbits(31) if seed is None else seed
        made = self.model.sample(prompt, body["max_tokens"], body["temperature"], own, body.get("stop", []))
        self.log.append({"prompt": prompt, "ids": made.ids, "seed": seed, "loads": self.loads})
        tokens = [f"token_id:{token}" for token in made.ids]
        top = [{token: one} for token, one in zip(tokens, made.logprobs, strict=True)]
        return {
            "text": made.text,
            "prompt_token_ids": prompt,
            "token_ids": made.ids,
            "logprobs": {"tokens": tokens, "token_logprobs": made.logprobs, "top_logprobs": top},
            "finish_reason": made.finish_reason,
            "stop_reason": made.stop_reason,
        }

    async def told(self, request: web.Request) -> web.Response:
        return web.json_response(self.log)

    async def until_future(self, request: web.Request) -> web.Response:
        await self.future.wait()
        return web.json_response({})


class VLLMServer:
    """The server as a process of its own, ready when it is made."""

    def __init__(self, folder: str) -> None:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            listening.listen()
            command = [sys.executable, "-m", "tests.support.vllm_server", folder, str(listening.fileno())]
            self.process = subprocess.Popen(
                command, cwd=ROOT, pass_fds=[listening.fileno()], env={**os.environ, "OMP_NUM_THREADS": "1"}
            )

    def log(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.url}/log", timeout=60) as reply:
            told: list[dict[str, Any]] = json.load(reply)
        return told

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


async def main(folder: str, descriptor: int) -> None:
    runner = web.AppRunner(Served(folder).application())
    await runner.setup()
    await web.SockSite(runner, socket.socket(fileno=descriptor)).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
