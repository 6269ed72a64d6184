"""Runs a solution against unit tests and reports each. It is the script inside the sandbox: standard library only.

The request comes on standard input; a report goes to what standard output was at the start, one JSON object a line,
each with the request's secret: what the solution prints is no report.
"""

import ast
import asyncio
import json
import os
import resource
import signal
import sys
import types
import unittest
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

REASON_LENGTH = 300
Test = tuple[str, Callable[[], Any]]


def main() -> None:
    request = json.load(sys.stdin)
    secret = request["secret"]
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    confine(request["limits"], request["user"])
    myself = os.getpid()

    def report(kind: str, **facts: Any) -> None:
        if os.getpid() != myself:
            os._exit(1)  # A process that the solution forked off has come back here.
        reports.write(json.dumps({"secret": secret, "kind": kind, **facts}) + "\n")

    module = types.ModuleType("solution")
    # "__test__" is what BigCodeBench's own runner calls it.
    sys.modules["solution"] = sys.modules["__test__"] = module
    sys.path.insert(0, os.getcwd())
    sys.argv = ["solution.py"]
    Path("solution.py").write_text(request["solution"], encoding="utf-8")
    problem = problem_of(lambda: exec(compile(request["solution"], "solution.py", "exec"), module.__dict__))
    if problem:
        report("broken", reason=problem)
    else:
        run_tests(request["tests"], request["entry_point"], module.__dict__, report)
        report("end")
    # What the solution left behind, threads and processes, is not waited for.
    os.killpg(0, signal.SIGKILL)


def confine(limits: dict[str, Any], user: int | None) -> None:
    """Take the limits, and give up being root."""
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    wanted = {
        resource.RLIMIT_AS: limits["memory_mb"] << 20,
        resource.RLIMIT_FSIZE: limits["file_mb"] << 20,
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in wanted.items():
        if most is not None:
            resource.setrlimit(kind, (most, most))
    # The second limit, a second later, kills what ignores the first.
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"], limits["cpu_seconds"] + 1))


def run_tests(source: str, entry_point: str | None, space: dict[str, Any], report: Callable[..., None]) -> None:
    """Run the tests' source in the solution's namespace, and report the tests in it.

    A test is an assert at the top level, a method of a unittest class, a function `test...` without arguments, or
    HumanEval's `check(candidate)` if the source does not call it. Asserts run where they stand, the others at the
    end. If a statement between them fails, nothing after it is run.
    """
    before = dict(space)
    tree = ast.parse(source)
    report("asserts", count=sum(isinstance(node, ast.Assert) for node in tree.body))
    for node in tree.body:
        code = compile(ast.Module([node], []), "tests.py", "exec")
        if isinstance(node, ast.Assert):
            problem = problem_of(partial(exec, code, space))
            report("test", name=f"line {node.lineno}: {ast.unparse(node)}"[:REASON_LENGTH], problem=problem)
            continue
        try:
            exec(code, space)
        except ModuleNotFoundError as error:
            report("unready", module=error.name)
            return
        except BaseException as error:
            report("test", name=f"line {node.lineno} of the tests", problem=describe(error))
            return
    tests = list(find_tests(tree, entry_point, {k: v for k, v in space.items() if before.get(k) is not v}, space))
    report("tests", count=len(tests))
    for name, test in tests:
        report("test", name=name, problem=problem_of(test))


def find_tests(tree: ast.Module, entry_point: str | None, new: dict[str, Any], space: dict[str, Any]) -> Iterator[Test]:
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    for name, value in new.items():
        if isinstance(value, type) and issubclass(value, unittest.TestCase):
            for method in unittest.defaultTestLoader.getTestCaseNames(value):
                if not any(getattr(one, "__unittest_skip__", False) for one in (value, getattr(value, method))):
                    yield f"{name}.{method}", partial(run_case, value, method)
        elif isinstance(value, types.FunctionType) and name.startswith("test") and name not in called:
            yield name, partial(run_function, value)
        elif name == "check" and isinstance(value, types.FunctionType) and name not in called and entry_point:
            yield name, partial(value, space[entry_point])


class FirstProblem(unittest.TestResult):
    """Keeps the first error or failure itself, where unittest keeps its traceback as text."""

    problem: BaseException | None = None

    def addError(self, test: Any, err: Any) -> None:
        self.problem = self.problem or err[1]

    addFailure = addError

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self.problem = self.problem or err[1]


def run_case(case: type[unittest.TestCase], method: str) -> None:
    result = FirstProblem()
    unittest.TestSuite([case(method)]).run(result)
    if result.problem is not None:
        raise result.problem
    if not result.testsRun or result.skipped or result.unexpectedSuccesses:
        raise AssertionError("the test did not run to its end")


def run_function(function: Callable[[], Any]) -> None:
    result = function()
    if asyncio.iscoroutine(result):
        asyncio.run(result)


def problem_of(action: Callable[[], Any]) -> str:
    """What went wrong in it, in one line; empty if nothing did."""
    try:
        action()
    except BaseException as error:  # SystemExit and KeyboardInterrupt are failures of the code like any other.
        return describe(error)
    return ""


def describe(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split()) if str(error) else type(error).__name__
    return text[:REASON_LENGTH]


if __name__ == "__main__":
    main()
