"""Where it begins: this process examines the solution, or has it examined, and reports; a child runs the solution.

Tests that hand over and get back plain values run here, and call the solution's functions across a socket: nothing that
the solution patches, returns or forks is near them. Other tests share the solution's process, and their reports are
passed on.
"""

import ast
import json
import os
import signal
import socket
import sys
import time
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from . import shared, solution, suite
from .confinement import OPEN_FILES, confine, shield
from .reports import Reports, clean, describe
from .wire import Garbled, Gone, Message, NotPlain, Peer

_PATIENCE = 1.0
"""Seconds that a process has to end once it has closed its socket."""


def main() -> None:
    options = json.loads(sys.argv[1])
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        _run_child(ours, theirs, options)
    theirs.close()
    confine(options["limits"], options["examiner"])
    shield()
    os.write(1, b"ready\n")
    request = json.load(sys.stdin)
    reports = Reports()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    peer = Peer(ours)
    reports.send("started")
    examine = _examine if request["isolated"] else _pass_on
    try:
        if reason := _unreadable(request["tests"]):
            reports.send("unready", reason=reason)
        else:
            examine(peer, request, reports)
    except Gone:
        pass
    except Garbled:
        reports.send("tampered")
    if peer.gone:
        reports.send("ended", status=_status_of(child))
    reports.send("end")
    # What the solution left behind, threads and processes, is not waited for. In the sandbox it ends with this one.
    if os.getpid() != 1:
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _run_child(ours: socket.socket, theirs: socket.socket, options: dict[str, Any]) -> None:
    try:
        ours.close()
        confine(options["limits"], options["user"])
        end = socket.socket(fileno=os.dup2(theirs.detach(), OPEN_FILES - 1, inheritable=False))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        os.closerange(3, OPEN_FILES - 1)
        (shared if Peer(end).receive()["shared"] else solution).serve(Peer(end))
    finally:
        os._exit(0)


def _unreadable(tests: str) -> str:
    """Why this Python, which may be older than the judge's, cannot read the tests; empty if it can."""
    try:
        ast.parse(tests)
    except SyntaxError as error:
        return describe(error)
    return ""


def _examine(peer: Peer, request: Message, reports: Reports) -> None:
    peer.send({"shared": False})
    if problem := peer.ask({"solution": request["solution"]}):
        reports.send("broken", reason=clean(str(problem)))
        return
    space: dict[str, object] = {"__name__": "solution"}
    for name in request["names"]:
        try:
            space[name] = peer.ask({"name": name})
        except KeyError:
            continue
        except (TypeError, Garbled) as error:
            space[name] = _refused(f"{name}: {error}")
    module = types.ModuleType("solution")
    vars(module).update(space)
    sys.modules["solution"] = module
    suite.run_tests(request["tests"], request["entry_point"], space, reports)


def _refused(why: str) -> Callable[..., None]:
    def refused(*arguments: object, **named: object) -> None:
        raise NotPlain(why)

    return refused


def _pass_on(peer: Peer, request: Message, reports: Reports) -> None:
    peer.send({"shared": True})
    peer.send(request)
    for _ in range(suite.MOST_TESTS + 10):
        try:
            report = peer.receive()
            if report["kind"] == "end":
                return
            if report["kind"] == "unready" and not shared.missing_module(request["tests"]):
                break  # The solution says so, to get no score.
            texts = {key: clean(report[key]) for key in ("name", "problem", "reason", "module") if key in report}
            counts = {key: int(report[key]) for key in ("count",) if key in report}
            reports.send(clean(report["kind"]), **texts, **counts)
        except (Garbled, LookupError, TypeError, ValueError):
            break
    reports.send("tampered")


def _status_of(child: int) -> int | None:
    until = time.monotonic() + _PATIENCE
    with suppress(ChildProcessError):
        while time.monotonic() < until:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
    return None
