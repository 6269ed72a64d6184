import asyncio
import secrets
import socket
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from collab_agents.errors import ConfigError

HOST = "127.0.0.1"


def view(paths: Sequence[Path], *, port: int, browser: bool) -> None:
    """Serve a page over the runs until it is interrupted.

    Raises:
        ConfigError: If the extra is not installed, or the port is taken.
        RunDirectoryError: For a folder without runs.
    """
    try:
        import uvicorn

        from collab_agents.view.app import create_app
        from collab_agents.view.places import places_at
    except ImportError as error:
        raise _not_installed("view", error) from error
    places = places_at(paths)
    listening = _listen(port)
    port = listening.getsockname()[1]
    token = secrets.token_urlsafe(16)
    hosts = [f"{name}:{port}" for name in (HOST, "localhost")]
    server = uvicorn.Server(
        uvicorn.Config(create_app(places, hosts=hosts, token=token), log_level="warning", access_log=False)
    )
    address = f"http://{HOST}:{port}/?token={token}"
    console = Console()
    console.print(Text(f"{address}\nCtrl-C ends it."), soft_wrap=True)
    if browser:
        webbrowser.open(address)
    asyncio.run(server.serve(sockets=[listening]))


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror or error}; choose another, or 0 for any") from error


def report(
    run: Path,
    out: Path,
    *,
    against: Path | None,
    trajectories: int,
    choose: Sequence[str] | None,
    tasks: Sequence[str],
    private: bool,
) -> None:
    """Write a report, and say how large it is."""
    try:
        from collab_agents.view.report import write_report
    except ImportError as error:
        raise _not_installed("report", error) from error
    options: dict[str, Any] = {"choose": tuple(choose)} if choose else {}
    write_report(run, out, against=against, trajectories=trajectories, tasks=tasks, private=private, **options)
    Console().print(Text(f"{out} has {out.stat().st_size / 1e6:.1f} MB."), soft_wrap=True)


def _not_installed(command: str, error: ImportError) -> ConfigError:
    return ConfigError(f"{command} needs pip install 'collab-agents[view]' ({error.name or error} is missing)")
