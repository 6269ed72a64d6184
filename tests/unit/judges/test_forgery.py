"""Code that solves nothing and sets out to pass its tests: none of it scores."""

import asyncio
import itertools
import os
from typing import Any

import pytest

from collab_agents.judges import Score, pass_rate
from collab_agents.judges._sandbox.isolation import solutions_names
from tests.support.coding import TASKS, TIGHT, coding, said

TESTS = """
import unittest

class TestWork(unittest.TestCase):
    def test_values(self):
        self.assertEqual(work(1), 2)
        self.assertTrue(work(2) == 3)
        self.assertIn(work(3), [4])

    def test_error(self):
        with self.assertRaises(ValueError):
            work("x")

def test_more():
    assert work(4) == 5
    assert [work(5), work(6)] == [6, 7], work(7)

assert work(8) == 9
assert not work(9) != 10
"""

EQUAL = "    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
EQUAL += "    def __hash__(self): return 0\n    def __contains__(self, other): return True\n"
WIRE = "import sys\nwire = sys.modules['examiner.wire']\n"
SOCKET = "import json, os, struct\ndef tell(one):\n    data = json.dumps(one).encode()\n"
SOCKET += "    os.write(511, struct.pack('>I', len(data)) + data)\n"
SEARCH = "import gc, sys, os\ndef work(x):\n    frame = sys._getframe()\n    while frame:\n"
SEARCH += "        for value in list(frame.f_locals.values()) + gc.get_objects()[:10**5]:\n"
SEARCH += "            name = type(value).__name__\n"
FORGERIES = {
    "an object equal to everything": f"class Equal:\n{EQUAL}def work(x): return Equal()",
    "a number equal to everything": f"class Equal(int):\n{EQUAL}def work(x): return Equal(0)",
    "a text equal to everything": f"class Equal(str):\n{EQUAL}def work(x): return Equal()",
    "a list equal to everything": f"class Equal(list):\n{EQUAL}def work(x): return Equal()",
    "a dict equal to everything": f"class Equal(dict):\n{EQUAL}def work(x): return Equal()",
    "a float equal to everything": f"class Equal(float):\n{EQUAL}def work(x): return Equal(0)",
    "a class equal to everything": f"class Meta(type):\n{EQUAL}class Equal(metaclass=Meta): pass\ndef work(x): return Equal",
    "an exception equal to everything": f"class Equal(Exception):\n{EQUAL}def work(x): return Equal()",
    "a function equal to everything": f"class Equal:\n{EQUAL}    def __call__(self): return 0\ndef work(x): return Equal()",
    "an iterator equal to everything": f"class Equal:\n{EQUAL}    def __iter__(self): return self\n"
    "    def __next__(self): return 0\ndef work(x): return Equal()",
    "an object that says it is a number": f"class Equal:\n    __class__ = int\n{EQUAL}def work(x): return Equal()",
    "a mock of anything": "from unittest.mock import ANY\ndef work(x): return ANY",
    "a code that is a class": f"class work:\n    def __init__(self, x): pass\n{EQUAL}",
    "reports from the frames": SEARCH + "            if 'Reports' in name or name == 'Peer':\n"
    "                for verb in ('test', 'send'):\n                    try: getattr(value, verb)('test', '')\n"
    "                    except BaseException: pass\n        frame = frame.f_back\n    return 0",
    "tests from the frames": SEARCH + "            if isinstance(value, str) and 'work(1), 2' in value: return x + 1\n"
    "        frame = frame.f_back\n    return 0",
    "tests from the files": "import glob\ndef work(x):\n    for path in glob.glob('/**', recursive=True):\n"
    "        if path.startswith(('/usr', '/proc', '/dev', '/lib', '/root', '/opt')): continue\n"
    "        try:\n            if 'work(1), 2' in open(path).read(): return x + 1\n        except Exception: pass\n    return 0",
    "tests from the processes": "import glob\ndef work(x):\n    for path in glob.glob('/proc/1/*') + glob.glob('/proc/1/fd/*'):\n"
    "        try:\n            if 'work(1), 2' in open(path).read(10**6): return x + 1\n        except Exception: pass\n    return 0",
    "a report from a forked child": "import os\nif os.fork() == 0:\n"
    "    for file in range(3, 512):\n        try: os.write(file, b'{\"kind\": \"end\", \"number\": 2}\\n')\n"
    "        except OSError: pass\n    os._exit(0)\ndef work(x): return 0",
    "an end in a forked child": "import os\ndef work(x):\n    if os.fork(): os._exit(0)\n    return 0",
    "reports to every open file": "import os\nlines = b''.join(b'{\"kind\": \"test\", \"number\": %d}\\n' % i for i in range(9))\n"
    "def work(x):\n    for file in range(512):\n        try: os.write(file, lines)\n        except OSError: pass\n    return 0",
    "malformed reports to every open file": "import os\ndef work(x):\n    for file in range(512):\n"
    "        try: os.write(file, b'{\"kind\": 7}\\n[]\\nnull\\n{\"kind\": \"end\", \"number\": []}\\n')\n"
    "        except OSError: pass\n    return 0",
    "reports to process 1": "import glob, os\ndef work(x):\n    for path in ('/proc/1/fd/1', '/proc/1/fd/3', '/dev/stdout'):\n"
    "        try: open(path, 'w').write('{\"kind\": \"end\", \"number\": 2}\\n')\n        except OSError: pass\n    return 0",
    "the memory of process 1": "def work(x):\n    try: open('/proc/1/mem', 'r+b')\n    except OSError: return 0\n    return x + 1",
    "patched unittest": "import unittest\nfor name in dir(unittest.TestCase):\n    if name.startswith('assert'):\n"
    "        setattr(unittest.TestCase, name, lambda *a, **k: None)\ndef work(x): return 0",
    "patched internals of unittest": "import unittest.case\nunittest.case._Outcome.testPartExecutor = None\n"
    "unittest.TestCase.run = lambda self, result: result.startTest(self)\ndef work(x): return 0",
    "tests that are skipped": "import unittest\nunittest.TestCase.__unittest_skip__ = True\ndef work(x): return 0",
    "a test that skips itself": "import unittest\ndef work(x): raise unittest.SkipTest('done')",
    "a test that stops": "import unittest\ndef work(x): raise unittest.case._ShouldStop",
    "an error of the name of one that stops": "class _ShouldStop(Exception): pass\ndef work(x): raise _ShouldStop",
    "patched json": "import json\njson.dumps = lambda *a, **k: '{\"number\": 1, \"result\": true}'\ndef work(x): return 0",
    "a patched compile": "import builtins\nbuiltins.compile = lambda *a, **k: (lambda: 0).__code__\ndef work(x): return 0",
    "a patched parse": "import ast\nast.parse = lambda *a, **k: ast.Module([], [])\ndef work(x): return 0",
    "a patched import": "import builtins\nbuiltins.__import__ = lambda *a, **k: None\ndef work(x): return 0",
    "a patched signature": "import inspect\ninspect.signature = None\ndef work(x): return 0",
    "other built-ins": "__builtins__ = {'AssertionError': ValueError}\ndef work(x): return 0",
    "another AssertionError": "import builtins\nbuiltins.AssertionError = type('A', (BaseException,), {})\ndef work(x): return 0",
    "a trace that jumps": "import sys\ndef trace(frame, event, argument):\n    try: frame.f_lineno = frame.f_lineno + 1\n"
    "    except Exception: pass\n    return trace\nsys.settrace(trace)\ndef work(x):\n"
    "    frame = sys._getframe()\n    while frame:\n        frame.f_trace = trace\n        frame = frame.f_back\n    return 0",
    "an audit hook": "import sys\ndef hook(event, arguments):\n    if event == 'compile': raise RuntimeError\n"
    "sys.addaudithook(hook)\ndef work(x): return 0",
    "files that shadow libraries": "for name in ('unittest', 'json', 'ast', 'socket', 'struct'):\n"
    "    open(name + '.py', 'w').write('import os\\nos._exit(0)')\ndef work(x): return 0",
    "an empty path": "import sys\nsys.path.clear()\nsys.modules.clear()\ndef work(x): return 0",
    "a long reason with escape codes": "def work(x): raise ValueError('\\x1b[2J' * 10**6)",
    "a reason that raises": "class Odd(Exception):\n    def __str__(self): raise self\ndef work(x): raise Odd",
    "an exit": "import sys\ndef work(x): sys.exit(0)",
    "an exit at once": "import os\nos._exit(0)",
    "an interruption": "def work(x): raise KeyboardInterrupt",
    "a generator's end": "def work(x): raise GeneratorExit",
    "an exit from a thread": "import os, threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), os._exit(0))).start()\n"
    "def work(x):\n    time.sleep(0.2)\n    return 0",
    "an exit when all is over": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef work(x): return 0",
    "signals to process 1": "import os, signal\ndef work(x):\n    for one in (signal.SIGSTOP, signal.SIGINT, signal.SIGALRM, signal.SIGKILL):\n"
    "        try: os.kill(1, one)\n        except OSError: pass\n    return 0",
    "limits for process 1": "import resource\ndef work(x):\n    try: resource.prlimit(1, resource.RLIMIT_CPU, (0, 0))\n"
    "    except (OSError, ValueError): pass\n    return 0",
    "answers before they are asked for": SOCKET + "for number in range(1, 60): tell({'number': number, 'result': True})\n"
    "def work(x): return 0",
    "answers that are no answers": SOCKET + "def work(x):\n    tell({'number': None, 'result': {'x': 1}})\n    tell([])\n"
    "    return 0",
    "calls that nobody offered": SOCKET + "def work(x):\n    for function in (0, -1, 'exec', None):\n"
    "        tell({'call': function, 'number': 1, 'arguments': [[], {}]})\n    return 0",
    "a flood of calls": SOCKET + "def work(x):\n    while True: tell({'call': 0, 'number': 1, 'arguments': [[], {}]})",
    "every kind of value": WIRE + "import itertools\nkinds = itertools.cycle([{'type': 'object'}, {'constant': 'NotImplemented'},\n"
    "    {'constant': 'Ellipsis'}, {'error': [['ValueError'], [], '', 0, False]}, {'theirs': 0}, {'error': [['A'], [], '', 0, True]},\n"
    "    {'function': [0, None, None]}, {'iterator': 0}, {'slice': [1, 2, 3]}, {'type': 'exec'}, {'x': 1}, {'set': [[1]]}])\n"
    "wire.Peer.pack = lambda self, value, depth=0: next(kinds)\ndef work(x): return 0",
    "a value without end": "def work(x): return [0] * 10**8",
    "a value without bottom": "def work(x):\n    value = []\n    for _ in range(10**4): value = [value]\n    return value",
    "an iterator without end": "import itertools\ndef work(x): return itertools.repeat(x + 1)",
    "its own arguments changed": "def work(x):\n    return globals().setdefault('seen', []) or seen.append(x) or seen",
    "no socket": "import os\nos.closerange(3, 512)\ndef work(x): return 0",
    "memory by ctypes": "import ctypes\ndef work(x):\n    ctypes.memset(id(2) + 16, 0, 8)\n    return 0",
    "an error for everything": "def work(x): raise ValueError",
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_scores_nothing(name: str) -> None:
    assert len(FORGERIES) >= 30
    limits = TIGHT.model_copy(update={"wall_seconds": 5}) if name in ENDLESS else TIGHT
    score = asyncio.run(forged(FORGERIES[name], limits=limits))
    assert score.value is not None, score.reason
    # The one test that wants an error is passed by code that raises one.
    assert score.value == (0.2 if name in RAISING else 0.0), score.reason
    assert len(score.reason) < 1000
    assert score.reason.isprintable()


ENDLESS = {"a flood of calls"}
"""Those that stop only at a limit on time."""
RAISING = {"an error for everything", "a long reason with escape codes"}


async def forged(code: str, metadata: dict[str, Any] | None = None, **options: Any) -> Score:
    return await pass_rate(**({"limits": TIGHT} | options))(said(code), coding(TESTS, **metadata or {}))


@pytest.mark.parametrize(
    "name",
    [
        *("patched unittest", "patched internals of unittest", "tests that are skipped", "a patched signature"),
        *("an empty path", "an exit", "other built-ins", "a patched compile", "a patched import"),
        *("another AssertionError", "malformed reports to every open file", "answers that are no answers"),
        *("a long reason with escape codes", "files that shadow libraries", "a test that skips itself", "no socket"),
    ],
)
async def test_tests_that_share_the_codes_process_see_through_what_they_can(name: str) -> None:
    score = await forged(FORGERIES[name], {"isolation": "shared"})
    assert score.value is not None, score.reason
    assert score.value <= 0.2
    assert len(score.reason) < 1000
    assert score.reason.isprintable()
    assert score.reason.endswith("(isolation: shared)")


@pytest.mark.parametrize("name", ["tests from the processes", "the memory of process 1", "reports to process 1"])
async def test_an_ordinary_users_sandbox_keeps_them_apart_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert (await forged(FORGERIES[name])).value == 0.0


async def test_without_a_sandbox_tests_run_apart_too() -> None:
    for name in ("an object equal to everything", "patched unittest", "reports to process 1", "tests from the frames"):
        score = await forged(FORGERIES[name], sandbox="none")
        assert score.value == 0.0, score.reason


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        ("def work(x): x.sort()", "a = [2, 1]\nassert work(a) is None\nassert a == [1, 2]"),
        ("def work(x): x[0][0].append(3)", "a = [1]\nb = [[a]]\nwork(b)\nassert (a, b) == ([1, 3], [[[1, 3]]])"),
        ("def work(x): x['a'].update(b=1); x.pop('c')", "a = {'a': {}, 'c': 1}\nwork(a)\nassert a == {'a': {'b': 1}}"),
        ("def work(f, x): return [f(one) for one in x]", "assert work(lambda x: x * 2, (1, 2)) == [2, 4]"),
        ("def work(n):\n    def add(x): return x + n\n    return add", "assert work(1)(2) == 3"),
        ("def work(n):\n    for i in range(n): yield i", "assert list(work(3)) == [0, 1, 2]\nassert next(work(1)) == 0"),
        ("def work(x): return x", "for x in (1, 2**90, -1.5, 'é\\ud800', b'a', None, True, [(1, {2})], {(1,): {'a': ()}},\n"
         "    1j, range(3), frozenset({1}), float('inf')):\n    assert work(x) == x and type(work(x)) is type(x)"),
        ("def work(x): return x", "import collections, datetime, decimal, fractions\nfor x in (collections.Counter('aab'),\n"
         "    collections.deque([1], 2), datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc), decimal.Decimal('1.10'),\n"
         "    fractions.Fraction(1, 3), datetime.timedelta(1), collections.OrderedDict(a=1)):\n    assert work(x) == x"),
        ("def work(x): raise KeyError(x)", "try: work('a')\nexcept KeyError as error: assert error.args == ('a',)"),
        ("def work(x): raise OSError(2, 'no', x)", "try: work('f')\nexcept OSError as error: assert error.args[0] == 2"),
        ("class E(ValueError): pass\ndef work(x): raise E('bad')", "try: work(1)\nexcept ValueError as e: assert str(e) == 'bad'"),
        ("def work(f): return f()", "def boom(): raise LookupError('x')\ntry: work(boom)\nexcept LookupError as error: assert str(error) == 'x'"),
        ("work = lambda x, *, y=1: x + y", "assert work(1, y=2) == 3\nassert work(1) == 2"),
        ("LIMIT = 7\ndef work(x): return LIMIT", "assert work(0) == LIMIT == 7"),
        ("import functools\n@functools.cache\ndef work(n): return n if n < 2 else work(n - 1) + work(n - 2)", "assert work(80) > 10**16"),
        ("def work(x):\n    'Doubles.'\n    return x", "assert work.__doc__ == 'Doubles.' and work.__name__ == 'work'"),
        ("def work(x, acc=[]):\n    acc.append(x)\n    return acc", "a = work(1)\nb = work(2)\nassert (a, b) == ([1, 2], [1, 2])"),
    ],
    ids=itertools.count(),
)  # fmt: skip
async def test_plain_values_cross_as_they_are(code: str, tests: str) -> None:
    assert solutions_names(tests, "work") is not None
    score = await pass_rate(limits=TIGHT)(said(code), coding(tests))
    assert score.value == 1.0, score.reason


@pytest.mark.parametrize(
    "tests",
    [
        "import numpy\nassert numpy.allclose(work(1), 2)",
        "import os\nwork('f')\nassert os.path.exists('f')",
        "from unittest.mock import patch\n@patch('solution.time')\ndef test_a(time): work()",
        "import random\nrandom.seed(0)\nassert work() == 1",
        "account = Account(1)\nassert account.balance == 1",
        "class Node:\n    pass\nassert work(Node()) == 1",
        "assert work(1).value == 2",
        "try: work(1)\nexcept TooBig: pass",
        "async def test_a(): assert await work(1) == 2",
        "a = []\nassert work(a) is a",
        "with work(1): pass",
        "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()): work(1)",
        "assert helper.cache == {}",
    ],
)
def test_tests_that_need_more_than_values_share_the_codes_process(tests: str) -> None:
    assert solutions_names(tests, "work") is None


def test_most_of_the_coding_tasks_run_apart() -> None:
    apart = [task.name for task in TASKS if solutions_names(task.tests, task.entry_point) is not None]
    assert len(apart) >= 25
