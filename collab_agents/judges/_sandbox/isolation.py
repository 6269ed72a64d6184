"""Decide from the source of tests whether they can run in a separate process from the code under test."""

import ast
import builtins
import collections
import datetime
import decimal
import fractions
import importlib
import itertools
import re
import unittest
from collections.abc import Iterator
from functools import lru_cache

_MODULES = {
    *("__future__", "bisect", "collections", "contextlib", "copy", "datetime", "decimal", "fractions", "functools"),
    *("heapq", "itertools", "json", "math", "operator", "re", "statistics", "string", "textwrap", "typing"),
    *("unittest", "uuid"),
}
"""Modules whose use in a test can neither reveal nor carry state of the code under test."""

_ELSEWHERE = {
    *("eval", "exec", "open", "input", "print", "globals", "locals", "vars", "id", "super", "__import__"),
    *("namedtuple", "NamedTuple", "redirect_stdout", "redirect_stderr", "mock", "patch"),
    *("assertIs", "assertIsNot", "assertWarns", "assertWarnsRegex", "assertLogs", "assertNoLogs"),
}
"""Names that give access to more than values: files, output, identity, or types defined in the tests."""

_TYPE_SECOND = {"isinstance", "issubclass", "assertIsInstance", "assertNotIsInstance"}
_BY_TYPE = {
    *_TYPE_SECOND,
    *("type", "assertRaises", "assertRaisesRegex"),
}
"""Functions that take a class, which may be one of the code's own."""

_PLAIN = (
    *(str, bytes, bytearray, int, float, complex, list, tuple, dict, set, frozenset, range, slice, Exception, OSError),
    *(collections.deque, collections.Counter, collections.OrderedDict, datetime.datetime, datetime.date, datetime.time),
    *(datetime.timedelta, datetime.timezone, decimal.Decimal, fractions.Fraction, itertools.chain, unittest.TestCase),
)
_ATTRIBUTES = {name for kind in _PLAIN for name in dir(kind)} | {"exception", "__doc__", "__name__"}


@lru_cache(maxsize=4096)
def solutions_names(tests: str, entry_point: str | None) -> tuple[str, ...] | None:
    """Return the names that tests use from the code, or None if the tests must share the code's process.

    Tests can run in a separate process if they only call the code's functions with plain values and check the plain
    values that are returned. The decision does not depend on the code.
    """
    nodes = list(ast.walk(ast.parse(tests)))
    imported, asked, modules = set[str](), set[str](), set[str]()
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "solution":
            imported |= {alias.asname or alias.name for alias in node.names}
            asked |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add("." * node.level + (node.module or ""))
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    free = read - _bound(nodes) - set(dir(builtins)) - {"__name__"} | ({entry_point} if entry_point else set())
    theirs = free | imported
    if not modules <= _MODULES or any(re.match("[A-Z].*[a-z]", name) for name in theirs | asked):
        return None
    known = _ATTRIBUTES | _defined(nodes) | {name for module in modules for name in _dir(module)}
    if any(_needs_more(node, theirs, known) for node in nodes):
        return None
    return tuple(sorted(free | asked))


def _needs_more(node: ast.AST, theirs: set[str], known: set[str]) -> bool:
    match node:
        case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
            return True
        case ast.Name(id=name) if name in _ELSEWHERE or name == "__file__":
            return True
        case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in theirs:
            return attribute not in ("__doc__", "__name__")
        case ast.Attribute(attr=attribute):
            return attribute in _ELSEWHERE or attribute not in known
        case ast.ClassDef(bases=bases):
            return [ast.unparse(base) for base in bases] not in (["unittest.TestCase"], ["TestCase"])
        case ast.Call(func=function, args=arguments):
            callee = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            by_type = arguments[1:2] if callee in _TYPE_SECOND else arguments[:1]
            return callee in _BY_TYPE and any(_reads(one, theirs) for one in by_type if not isinstance(one, ast.Call))
        case ast.ExceptHandler(type=kind):
            return kind is not None and _reads(kind, theirs)
        case ast.withitem(context_expr=ast.Call(func=ast.Name(id=name))):
            return name in theirs
        case ast.withitem(context_expr=ast.Name(id=name)):
            return True
        case ast.Compare(ops=ops, comparators=others) if any(isinstance(one, ast.Is | ast.IsNot) for one in ops):
            return not all(isinstance(one, ast.Constant) or _is_type(one) for one in others)
    return False


def _is_type(node: ast.expr) -> bool:
    """Return whether the node is a built-in type, by its name or by `type(...)`."""
    function = node.func if isinstance(node, ast.Call) else node
    return isinstance(function, ast.Name) and isinstance(getattr(builtins, function.id, None), type)


def _reads(node: ast.AST, names: set[str]) -> bool:
    return any(isinstance(one, ast.Name) and one.id in names for one in ast.walk(node))


def _bound(nodes: list[ast.AST]) -> set[str]:
    """Return every name that the source assigns, in any scope."""
    found: set[str] = set()
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.arg(arg=name):
                found.add(name)
            case ast.Import() | ast.ImportFrom():
                found |= _names(node)
            case ast.ExceptHandler(name=str() as name) | ast.MatchAs(name=str() as name):
                found.add(name)
    return found


def _names(node: ast.Import | ast.ImportFrom) -> set[str]:
    return {alias.asname or alias.name.partition(".")[0] for alias in node.names}


def _defined(nodes: list[ast.AST]) -> set[str]:
    """Return the attributes that the source itself defines."""
    made = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    inside = (one for node in nodes if isinstance(node, ast.ClassDef) for one in node.body)
    return made | _bound([part for one in inside for part in ast.walk(one)])


def _dir(module: str) -> Iterator[str]:
    yield from dir(importlib.import_module(module))
    yield module
