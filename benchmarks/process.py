"""The loopback server as a process of its own, for the benchmarks and the tests."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class Server:
    """Started with the server's options, and ready when it is made. url: the base URL of its API.

    Raises OSError if it does not answer within 30 s.
    """

    def __init__(self, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.url = f"{self.address}/v1"
        command = [sys.executable, "-m", "benchmarks.server", "--port", str(port), *options]
        self.process = subprocess.Popen(command, cwd=ROOT)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.stats()
                return
            except OSError:
                if time.monotonic() > deadline:
                    self.close()
                    raise
                time.sleep(0.05)

    def stats(self) -> dict[str, int]:
        return self._get("/stats")

    def bodies(self) -> list[dict[str, Any]]:
        """The requests so far, in the order of arrival; for a server with `--log`."""
        return self._get("/log")

    def prompts(self) -> list[str]:
        return ["".join(str(message["content"]) for message in body["messages"]) for body in self.bodies()]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=10) as reply:
            return json.load(reply)
