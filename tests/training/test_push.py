"""Pushing a dataset to the Hugging Face Hub: what arrives there, and that it is kept when the Hub refuses."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.support.trajectories import trajectory


class Hub(ThreadingHTTPServer):
    """The part of the Hub's API that an upload of a folder of small files uses."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.address = f"http://127.0.0.1:{self.server_port}"
        Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer hf_right":
            self._answer({"error": "Invalid username or password."}, 401)
        elif self.path.startswith("/api/repos/create"):
            self.server.created.append(json.loads(body))
            self._answer({"url": f"{self.server.address}/datasets/me/pairs", "name": "me/pairs"})
        elif "/preupload/" in self.path:
            files = [one["path"] for one in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            self._answer({"files": modes})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer({"commitUrl": f"{self.server.address}/datasets/me/pairs/commit/0", "commitOid": "0"})
        else:
            self._answer({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        self._answer({"error": "not found"}, 404)

    def _answer(self, value: Any, status: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server
        server.shutdown()


@pytest.mark.parametrize("token", ["hf_right", "hf_wrong"])
def test_a_dataset_is_pushed_to_the_hub_or_kept_with_the_reason(hub: Hub, tmp_path: Path, token: str) -> None:
    lines = [trajectory(f"t{i}", 0.1, 0.9).model_dump_json() + "\n" for i in range(3)]
    (tmp_path / "trajectories.jsonl").write_text("".join(lines))
    command = [sys.executable, "-m", "collab_agents", "dataset", "--from", "trajectories.jsonl", "--kind", "preference"]
    done = subprocess.run(
        [*command, "--out", "pairs", "--push-to-hub", "me/pairs"],
        cwd=tmp_path,
        env={**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": token},
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "pairs" / "data" / "train.parquet").exists()
    if token == "hf_right":
        assert done.returncode == 0, done.stderr
        assert set(hub.files) == {"README.md", "data/train.parquet"}
        assert hub.files["data/train.parquet"] == (tmp_path / "pairs/data/train.parquet").read_bytes()
        assert hub.created[0]["type"] == "dataset"
        assert hub.created[0]["visibility"] == "private"
        assert "Pushed to" in done.stdout
    else:
        assert done.returncode == 1
        assert "the dataset 'me/pairs' cannot be pushed:" in done.stderr
        assert "it is saved in pairs" in done.stderr
