"""Run tests that need the solution's own classes, files or libraries in its process, where it can deceive them.

To make deception harder, the test framework and the tests' imports are loaded before the solution and restored after
it, and canary tests must fail.
"""

import ast
import builtins
import importlib
import sys
import threading
import unittest
from collections.abc import Iterator

from . import suite
from .reports import describe
from .solution import create_module, namespace, run
from .wire import Peer


class _PeerReports:
    """Sends reports to the supervising process."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def send(self, kind: str, **facts: object) -> None:
        self._peer.send({"kind": kind} | facts)

    def test(self, name: str, problem: str) -> None:
        self.send("test", **({"name": name[:1000], "problem": problem} if problem else {}))


def missing_module(tests: str) -> str:
    """Import the modules that the tests need, and return the first missing one, or ""."""
    try:
        _import_what_is_needed(tests)
    except ModuleNotFoundError as error:
        return str(error.name)[:1000]
    return ""


def serve(peer: Peer) -> None:
    request = peer.receive()
    reports = _PeerReports(peer)
    module = create_module()
    if missing := missing_module(request["tests"]):
        reports.send("unready", module=missing)
        reports.send("end")
        return
    before = dict(_framework())
    natives = dict(vars(builtins))
    if problem := run(request["solution"], module):
        reports.send("broken", reason=problem)
    else:
        sys.settrace(None)
        sys.setprofile(None)
        threading.settrace(None)
        for (owner, name), value in before.items():
            if vars(owner).get(name) is not value:
                setattr(owner, name, value)
        vars(builtins).update(natives)
        space = namespace(module, request["entry_point"])
        suite.run_tests(request["tests"], request["entry_point"], space, reports, fails_what_must_fail)
    reports.send("end")


def _import_what_is_needed(tests: str) -> None:
    """Run the tests' top-level imports. Raises ModuleNotFoundError."""
    for node in ast.parse(tests).body:
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.partition(".")[0] not in ("solution", "__test__"):
                try:
                    importlib.import_module(name)
                except ModuleNotFoundError:
                    raise
                except BaseException as error:
                    print(f"import {name}: {describe(error)}", file=sys.stderr)


def _framework() -> Iterator[tuple[tuple[object, str], object]]:
    kinds = [unittest.TestCase, unittest.TestSuite, unittest.TestLoader, unittest.TestResult, suite.Problems]
    for owner in (unittest, unittest.case, unittest.suite, suite, *kinds):
        for name, value in list(vars(owner).items()):
            if not (name.startswith("__") and name not in ("__init__", "__call__", "__eq__", "__new__")):
                yield (owner, name), value


def fails_what_must_fail() -> bool:
    """Return whether the framework, and `assert` itself, still reject wrong results."""

    class Canary(unittest.TestCase):
        def test_equal(self) -> None:
            self.assertEqual(1, 2)

        def test_true(self) -> None:
            self.assertTrue(False)

        def test_raises(self) -> None:
            with self.assertRaises(ValueError):
                pass

    def wrong() -> None:
        assert object() is None

    found = [problem for _, problem in suite.run_class("Canary", Canary)]
    return len(found) == 3 and all(found) and bool(suite.problem_of(wrong))
