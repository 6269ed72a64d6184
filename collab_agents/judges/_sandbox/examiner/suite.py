"""Run the tests in a source, and report each."""

import __future__

import ast
import sys
import types
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from .reports import describe

MOST_TESTS = 10_000
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Test = tuple[str, str]
"""A test's name, and what went wrong in it, or ""."""


class Reporting(Protocol):
    def send(self, kind: str, **facts: object) -> None: ...

    def test(self, name: str, problem: str) -> None: ...


def run_tests(
    source: str,
    entry_point: str | None,
    space: dict[str, object],
    reports: Reporting,
    sound: Callable[[], bool] = lambda: True,
) -> None:
    """Run the tests' source in the solution's namespace, and report the tests in it, MOST_TESTS at most.

    These are tests:

    - at the top level: an assert, a loop or block with asserts, or a call of a test function. They run in place.
    - a method of a unittest class, or a function `test...` without arguments or HumanEval's `check(candidate)` that is
      not called at the top level. They run at the end.

    If any other statement fails, nothing after it runs. `sound` is called before the first test and after the last, and
    returns whether tests can still be trusted.
    """
    if not sound():
        reports.send("tampered")
        return
    before = dict(space)
    tree = ast.parse(source)
    lines = source.splitlines()
    with deep_recursion():
        tree.body = [node for node in tree.body if not is_main(node)]
        codes = compiled(tree)
        called = top_level_calls(tree)
        standing = [node for node in tree.body if is_test(node)]
    reports.send("planned", count=len(standing) + count_defined(tree, called))
    for node, code in zip(tree.body, codes, strict=True):
        where = f"line {node.lineno}: {lines[node.lineno - 1].strip()}"
        if node in standing:
            reports.test(where, problem_of(partial(exec, code, space)))
            continue
        try:
            exec(code, space)
        except BaseException as error:
            if isinstance(error, ModuleNotFoundError) and isinstance(node, ast.Import | ast.ImportFrom):
                reports.send("unready", module=str(error.name)[:1000])
            else:
                reports.test(where, describe(error))
            return
    new = {name: value for name, value in space.items() if before.get(name) is not value and name not in called}
    tests = [test for name, value in new.items() for test in run_defined(name, value, entry_point, space)]
    if not sound():
        reports.send("tampered")
        return
    reports.send("defined", count=len(tests))
    for name, problem in tests[:MOST_TESTS]:
        reports.test(name, problem)


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Raise the recursion limit for long expressions in tests; the solution keeps the usual limit."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(20 * usual)
    try:
        yield
    finally:
        sys.setrecursionlimit(usual)


def compiled(tree: ast.Module) -> list[types.CodeType]:
    """Compile each statement with the source's `__future__` imports in effect."""
    future = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    flags = 0
    for name in [name.name for node in future for name in node.names]:
        flags |= getattr(__future__, name).compiler_flag
    return [compile(ast.Module([node], []), "tests.py", "exec", flags, dont_inherit=True) for node in tree.body]


def top_level_calls(tree: ast.Module) -> set[str]:
    """Return the functions called at the top level, outside of functions and of `if __name__ == "__main__"`."""
    running = [node for node in tree.body if not isinstance(node, (*FUNCTIONS, ast.ClassDef))]
    calls = [one for node in running for one in ast.walk(node) if isinstance(one, ast.Call)]
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


def is_test(node: ast.stmt) -> bool:
    if isinstance(node, ast.For | ast.While | ast.If | ast.With | ast.Try):
        return any(isinstance(one, ast.Assert) for one in ast.walk(node))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
        return node.value.func.id == "check" or node.value.func.id.startswith("test")
    return isinstance(node, ast.Assert)


def is_main(node: ast.stmt) -> bool:
    """Return whether the statement runs a file of tests: `unittest.main()`, or `if __name__ == "__main__"`."""
    text = ast.unparse(node.test if isinstance(node, ast.If) else node) if isinstance(node, ast.If | ast.Expr) else ""
    return text.startswith(("unittest.main(", "__name__ == '__main__'"))


def count_defined(tree: ast.Module, called: set[str]) -> int:
    """Estimate how many tests the source would have if it ran to its end."""
    functions = [node.name for node in tree.body if isinstance(node, FUNCTIONS) and node.name not in called]
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = [one.name for node in classes for one in node.body if isinstance(one, FUNCTIONS)]
    return functions.count("check") + sum(name.startswith("test") for name in functions + methods)


def run_defined(name: str, value: object, entry_point: str | None, space: dict[str, object]) -> Iterator[Test]:
    """Run the object that the tests' source defines under this name, if it is a test."""
    if isinstance(value, type) and issubclass(value, unittest.TestCase):
        yield from run_class(name, value)
    elif isinstance(value, types.FunctionType):
        code = value.__code__
        needed = code.co_argcount - len(value.__defaults__ or ())
        needed += code.co_kwonlyargcount - len(value.__kwdefaults__ or ())
        if name.startswith("test") and not needed:
            yield name, problem_of(partial(run_function, value))
        elif name == "check" and needed == 1 and entry_point:
            yield name, problem_of(lambda: value(space[entry_point]))


class Problems(unittest.TestResult):
    """Collects the first error or failure of each test in one line, instead of unittest's tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self.started: set[str] = set()
        self.problems: dict[str, str] = {}
        self.of_the_class = "the test did not run to its end"

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.started.add(test.id())

    def addError(self, test: object, err: Any) -> None:
        if isinstance(test, unittest.TestCase):
            self.problems.setdefault(test.id(), describe(err[1]))
        else:
            self.of_the_class = describe(err[1])

    addFailure = addError

    def addSubTest(self, test: object, subtest: object, err: Any) -> None:
        if err is not None:
            self.addError(test, err)

    def addSkip(self, test: object, reason: str) -> None:
        if isinstance(test, unittest.TestCase) and test.id() in self.started:
            self.problems.setdefault(test.id(), f"skipped: {reason}")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self.problems.setdefault(test.id(), "it passed, and was expected to fail")


def run_class(name: str, case: type[unittest.TestCase]) -> Iterator[Test]:
    """Run the class's tests, except skipped ones."""
    methods = [
        method
        for method in unittest.defaultTestLoader.getTestCaseNames(case)
        if not any(getattr(one, "__unittest_skip__", False) for one in (case, getattr(case, method)))
    ]
    result = Problems()
    failure = problem_of(lambda: unittest.TestSuite([case(method) for method in methods]).run(result))
    for method in methods:
        # A test's id has the class's own name, not the name under which it was found.
        test = f"{case.__module__}.{case.__qualname__}.{method}"
        ended = "" if test in result.started and not failure else failure or result.of_the_class
        yield f"{name}.{method}", result.problems.get(test, ended)


def run_function(function: Callable[[], object]) -> None:
    result = function()
    if isinstance(result, types.CoroutineType):
        import asyncio  # Slow to import, and rarely needed.

        asyncio.run(result)


def problem_of(action: Callable[[], object]) -> str:
    """Run the action, and return what went wrong in one line, or ""."""
    try:
        action()
    except BaseException as error:  # SystemExit and KeyboardInterrupt are failures too.
        return describe(error)
    return ""
