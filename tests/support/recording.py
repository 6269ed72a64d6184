"""A real HTTP server on loopback that keeps what it is sent and answers as it is told."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


@dataclass
class Answer:
    """body: text, JSON, or pieces that are sent one after another."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Recording:
    """url: with /v1. requests: the POSTs so far. answer: what each is answered with; it may be replaced."""

    root: str
    answer: Callable[[Request], Answer]
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.root}/v1"


def completion(text: str = "Hello.", **changes: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "any",
        "choices": [choice | changes.pop("choice", {})],
        "usage": usage,
    } | changes


@contextmanager
def recording(answer: Callable[[Request], Answer] = lambda request: Answer(completion())) -> Iterator[Recording]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            raw = self.rfile.read(length)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.path, headers, json.loads(raw or b"{}"))
            kept.requests.append(request)
            reply = kept.answer(request)
            body = reply.body if isinstance(reply.body, bytes | str) else json.dumps(reply.body)
            data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
            self.send_response(reply.status)
            for name, value in ({"content-type": "application/json"} | reply.headers).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    kept = Recording(f"http://127.0.0.1:{server.server_port}", answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()


def streamed(*pieces: dict[str, Any]) -> Answer:
    """Chunks as server-sent events."""
    lines = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces)
    return Answer(lines + "data: [DONE]\n\n", headers={"content-type": "text/event-stream"})


def chunk(text: str = "", **changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    return {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "any",
        "choices": [choice],
    } | changes
